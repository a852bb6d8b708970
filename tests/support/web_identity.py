"""An issuer of web tokens: its keys, its tokens, and a server that gives the keys out over TLS."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.certificates import self_signed

AUDIENCE = "sts.amazonaws.com"
SUBJECT = "system:serviceaccount:shop:web"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def jwk_of(key: PrivateKey, key_id: str, algorithm: str) -> dict[str, Any]:
    """The public half, as an issuer gives it out."""
    public: Any = key.public_key()
    kind: Any = RSAAlgorithm if algorithm.startswith("RS") else ECAlgorithm if algorithm[0:2] == "ES" else OKPAlgorithm
    return {**kind.to_jwk(public, as_dict=True), "kid": key_id, "alg": algorithm, "use": "sig"}


class Issuer:
    """Signs tokens with keys that a test may add, and answers for them."""

    def __init__(self, url: str = "https://idp.example.com/tenant") -> None:
        self.url = url
        self.keys: dict[str, tuple[PrivateKey, str]] = {}
        self.fetches = 0
        self.is_down = False
        self.add("rsa", rsa.generate_private_key(65537, 2048), "RS256")

    def add(self, key_id: str, key: PrivateKey, algorithm: str) -> None:
        """Another key."""
        self.keys[key_id] = key, algorithm

    @property
    def name(self) -> str:
        """The URL without scheme."""
        return self.url.removeprefix("https://")

    def arn(self, account: str) -> str:
        """What a trust policy names."""
        return f"arn:aws:iam::{account}:oidc-provider/{self.name}"

    def jwks(self) -> bytes:
        """The public keys as a JWK set."""
        return json.dumps({"keys": [jwk_of(key, name, alg) for name, (key, alg) in self.keys.items()]}).encode()

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        now = int(time.time())
        good = {"iss": self.url, "sub": SUBJECT, "aud": AUDIENCE, "iat": now, "exp": now + 600}
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def token(self, key_id: str = "rsa", *, headers: Mapping[str, Any] | None = None, **changed: Any) -> str:
        """A token, signed with one of the keys."""
        key, algorithm = self.keys[key_id]
        return jwt.encode(self.claims(**changed), key, algorithm, headers={"kid": key_id, **(headers or {})})


def trusting_table(issuer: Issuer, folder: Path) -> str:
    """The table of kmsd.toml that trusts an issuer, whose keys are put into a file."""
    keys = folder / "keys.json"
    keys.write_bytes(issuer.jwks())
    return f'[[web_identity]]\nissuer = "{issuer.url}"\njwks = "{keys}"\n'


@contextmanager
def served(folder: Path) -> Iterator[tuple[Issuer, Path]]:
    """An issuer on a port of this host, and the authority of its certificate."""
    certificate, key = self_signed(folder)
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.fetches += 1
            pages = {
                "/tenant/.well-known/openid-configuration": json.dumps(
                    {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                ).encode(),
                "/tenant/keys": issuer.jwks(),
            }
            content = pages.get(self.path)
            self.send_response(503 if issuer.is_down else 404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer.url = f"https://127.0.0.1:{server.server_port}/tenant"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer, certificate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
