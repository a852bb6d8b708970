"""Clients for Node.js, over the AWS SDK for JavaScript; npm installs exactly what npm/package-lock.json pins.

To refresh that lock, type this in its folder, with a date eight days ago:

    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --before DATE
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support.aws_cli import environment
from tests.support.clients import REGION
from tests.support.daemon import Daemon

FOLDER = Path(__file__).parent / "npm"
NODE = 20
"""The oldest major version of Node.js that the SDK runs on."""


@pytest.fixture(name="packages", scope="module")
def _packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clients, or a skip that says why there is none."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < NODE:
        pytest.skip(f"Node.js is {version}; the AWS SDK needs {NODE}")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    # A package that differs from its pinned hash is a failure, and no reason to skip.
    assert "EINTEGRITY" not in done.stderr, done.stderr
    if done.returncode != 0:
        pytest.skip(f"npm could not install the clients: {' | '.join(done.stderr.strip().splitlines()[:3])}")
    return folder


def test_jwt_on_kms(daemon: Daemon, packages: Path) -> None:
    """Its token verifies by the library itself, and elsewhere; one with another payload does not."""
    kms = daemon.client()
    key_id = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    answer = run(daemon, packages, "jwt_on_kms.js", key_id)
    assert answer["good"]["isValid"] is True
    assert answer["good"]["payload"]["hello"] == "world"
    assert answer["bad"] == {"isValid": False, "error": "Invalid signature"}
    signed, _, signature = answer["token"].rpartition(".")
    assert decoded(signed.split(".")[1])["hello"] == "world"
    public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    function = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(function), function.digest_size)
    public.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode(), pss, function)


def run(daemon: Daemon, folder: Path, *arguments: str) -> Any:
    """What a script prints in its last line, with the environment of `client.env`."""
    # This SDK reads the Region from AWS_REGION alone.
    environ = {**environment(daemon), "AWS_REGION": REGION}
    done = subprocess.run(
        ["node", *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def decoded(part: str) -> Any:
    """The JSON of a part of a token."""
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
