"""docs/signatures.md: every command, typed from top to bottom."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.support.aws_cli import environment
from tests.support.daemon import Daemon, provisioned
from tests.support.page_commands import ROOT, commands
from tests.support.post_quantum import post_quantum_daemon

PAGE = "docs/signatures.md"
BLOCKS = (
    *("sign-key", "sign", "verify", "verify-here"),
    *("authority", "server-request", "issue", "verify-chain", "attest", "verify-attestation"),
    *("jwt", "mac", "rsa", "agree"),
)
POST_QUANTUM = ("ml-dsa-sign", "ml-dsa-verify", "ml-dsa-verify-here", "ml-kem")
"""Blocks that need a token with ML-DSA and ML-KEM."""
PRINTS = {
    "verify": "Verified OK\n",
    "verify-here": "True\n",
    "verify-chain": "server.pem: OK\n",
    "verify-attestation": "Verified OK\nCKA_SENSITIVE: true\nCKA_NEVER_EXTRACTABLE: true\n",
    "mac": "True\n",
    "rsa": "attack at dawn",
    "ml-dsa-verify": "the signature is valid\nfirmware.bin: OK\n",
    "ml-dsa-verify-here": "True\n",
    "ml-kem": "one secret\n",
}
"""What the page says that a block prints; the others print nothing."""


@pytest.fixture(name="daemon", scope="module")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("daemon"), custody="object") as found:
        found.start()
        yield found


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typed")


def typed(daemon: Daemon, folder: Path, script: str) -> str:
    """What the shell prints for these commands."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kmsd = f'kmsd() {{ {sys.executable} -m kmsd --config {daemon.config} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", kmsd + script],
        cwd=folder,
        env={**environment(daemon), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_print_what_the_page_says(daemon: Daemon, folder: Path) -> None:
    """Each block in turn, in one folder; variables of one block are used within it alone."""
    for name in BLOCKS:
        assert typed(daemon, folder, commands(PAGE, name)) == PRINTS.get(name, ""), name
    # The JWT verifies with the public key of the page's first step.
    public = load_pem_public_key((folder / "release.pem").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signed, _, signature = (folder / "token.jwt").read_text().strip().rpartition(".")
    raw = _decoded(signature)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))


def test_the_post_quantum_commands(tmp_path: Path) -> None:
    """The sections that need a second token, each block in turn."""
    with post_quantum_daemon(tmp_path / "daemon") as daemon:
        folder = tmp_path / "typed"
        folder.mkdir()
        for name in POST_QUANTUM:
            assert typed(daemon, folder, commands(PAGE, name)) == PRINTS.get(name, ""), name


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_no_block_is_left_out() -> None:
    """Every block of the page is run here."""
    text = (ROOT / PAGE).read_text()
    assert [line for line in text.splitlines() if line.startswith("<!-- test: ")] == [
        f"<!-- test: {name} -->" for name in (*BLOCKS, *POST_QUANTUM)
    ]
