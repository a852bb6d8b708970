"""Libraries that sign by AWS KMS work unchanged, as their documentation shows them, with what `client.env` exports.

What they sign is verified without the daemon, by `cryptography` or by the library's own verification.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from jwt_kms import jwk, jws
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import AWSSigner, Key, Signature, Signer

from tests.support.aws_cli import export
from tests.support.clients import code_of
from tests.support.daemon import Daemon

HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
JOSE = [
    *(("RSA_2048", f"{scheme}{bits}") for scheme in ("RS", "PS") for bits in HASHES),
    *(("ECC_NIST_P256", "ES256"), ("ECC_NIST_P384", "ES384")),
]
"""Specs and the algorithms of JWA (RFC 7518) that jwt-kms signs with."""
SCHEMES = [
    ("ECC_NIST_P256", "ecdsa-sha2-nistp256"),
    ("ECC_NIST_P384", "ecdsa-sha2-nistp384"),
    *(("RSA_2048", f"rsassa-pss-sha{bits}") for bits in HASHES),
    *(("RSA_2048", f"rsa-pkcs1v15-sha{bits}") for bits in HASHES),
]
"""Specs and the schemes that the signer of securesystemslib knows for them."""
PAYLOAD = b"what is released"


@pytest.fixture(name="environ", scope="module", autouse=True)
def _environ(daemon: Daemon) -> Iterator[None]:
    """What a user exports; the libraries make their clients themselves."""
    with pytest.MonkeyPatch.context() as patch:
        export(daemon, patch)
        yield


@pytest.fixture(name="keys", scope="module")
def _keys(daemon: Daemon) -> dict[str, str]:
    """An alias for a signing key of each spec."""
    kms, aliases = daemon.client(), {}
    for spec in dict(JOSE):
        key_id = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        aliases[spec] = f"alias/signs-{spec}"
        kms.create_alias(AliasName=aliases[spec], TargetKeyId=key_id)
    return aliases


def decoded(text: str) -> bytes:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify_token(token: str, public: Any) -> dict[str, Any]:
    """Verify a compact JWS and return its payload. Raises InvalidSignature."""
    signed, _, last = token.rpartition(".")
    header, payload = (json.loads(decoded(part)) for part in signed.split("."))
    signature, function = decoded(last), HASHES[header["alg"][2:]]
    if isinstance(public, ec.EllipticCurvePublicKey):
        half = (public.curve.key_size + 7) // 8
        numbers = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        public.verify(utils.encode_dss_signature(*numbers), signed.encode(), ec.ECDSA(function))
    else:
        assert isinstance(public, rsa.RSAPublicKey)
        pss = padding.PSS(padding.MGF1(function), function.digest_size)
        scheme = pss if header["alg"].startswith("PS") else padding.PKCS1v15()
        public.verify(signature, signed.encode(), scheme, function)
    return payload


@pytest.mark.parametrize(("spec", "algorithm"), JOSE)
def test_jwt_kms(keys: dict[str, str], spec: str, algorithm: str) -> None:
    """Its tokens verify; a token with another payload does not."""
    key = jwk.Key(boto3.client("kms"), keys[spec])
    claims = {"something": "yes", "more_something": "abc"}
    token = jws.JWS(claims).add_signature(key, algorithm).serialize(compact=True)
    assert verify_token(token, key.public_key) == claims
    head, _, signature = token.split(".")
    other = base64.urlsafe_b64encode(b'{"something": "no"}').decode().rstrip("=")
    with pytest.raises(InvalidSignature):
        verify_token(f"{head}.{other}.{signature}", key.public_key)


def test_jwt_kms_reads_the_key(keys: dict[str, str]) -> None:
    """The JWK has what RFC 7517 asks of a signing key; an algorithm of another kind of key is refused."""
    key = jwk.Key(boto3.client("kms"), keys["RSA_2048"])
    assert key.public_key_pem.startswith(b"-----BEGIN PUBLIC KEY-----\n")
    published = key.public_key_jwk
    assert (published["kty"], published["use"]) == ("RSA", "sig")
    assert int.from_bytes(decoded(published["n"]), "big") == key.public_key.public_numbers().n
    with pytest.raises(jwk.JWKError, match="not supported by this key"):
        jws.JWS({}).add_signature(key, "ES256")


@pytest.mark.parametrize(("spec", "scheme"), SCHEMES)
def test_securesystemslib(keys: dict[str, str], spec: str, scheme: str) -> None:
    """A key is imported once and stored; its signer is made from the URI, and the stored key verifies."""
    uri, imported = AWSSigner.import_(keys[spec], scheme)
    assert uri == f"awskms:{keys[spec]}"
    stored = Key.from_dict(imported.keyid, imported.to_dict())
    signature = Signer.from_priv_key_uri(uri, stored).sign(PAYLOAD)
    again = Signature.from_dict(signature.to_dict())
    stored.verify_signature(again, PAYLOAD)
    with pytest.raises(UnverifiedSignatureError):
        stored.verify_signature(again, PAYLOAD + b"?")


def test_securesystemslib_chooses_a_scheme(keys: dict[str, str]) -> None:
    """From the algorithms that GetPublicKey lists; of a scheme that the key lacks it says so."""
    for spec, scheme in (("ECC_NIST_P256", "ecdsa-sha2-nistp256"), ("RSA_2048", "rsassa-pss-sha256")):
        assert AWSSigner.import_(keys[spec])[1].scheme == scheme
    with pytest.raises(ValueError, match="Unsupported scheme"):
        AWSSigner.import_(keys["RSA_2048"], "ecdsa-sha2-nistp521")


def test_securesystemslib_signs_an_envelope(keys: dict[str, str]) -> None:
    """DSSE, the envelope of in-toto, with two keys."""
    signers = [Signer.from_priv_key_uri(*AWSSigner.import_(keys[spec])) for spec in ("ECC_NIST_P256", "RSA_2048")]
    envelope = Envelope(PAYLOAD, "application/vnd.in-toto+json", {})
    for signer in signers:
        envelope.sign(signer)
    read = Envelope.from_dict(json.loads(json.dumps(envelope.to_dict())))
    accepted = read.verify([signer.public_key for signer in signers], threshold=2)
    assert set(accepted) == {signer.public_key.keyid for signer in signers}


def test_a_disabled_key_signs_nothing(daemon: Daemon, keys: dict[str, str]) -> None:
    """The libraries pass the service's error on."""
    kms = daemon.client()
    signer = Signer.from_priv_key_uri(*AWSSigner.import_(keys["ECC_NIST_P384"]))
    key = jwk.Key(boto3.client("kms"), keys["ECC_NIST_P384"])
    token = jws.JWS({}).add_signature(key, "ES384")
    key_id = kms.describe_key(KeyId=keys["ECC_NIST_P384"])["KeyMetadata"]["KeyId"]
    kms.disable_key(KeyId=key_id)
    try:
        assert code_of(signer.sign, PAYLOAD) == "DisabledException"
        with pytest.raises(ClientError, match="DisabledException"):
            token.add_signature(key, "ES384")
    finally:
        kms.enable_key(KeyId=key_id)
    signer.public_key.verify_signature(signer.sign(PAYLOAD), PAYLOAD)
