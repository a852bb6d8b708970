"""scripts/release: files, checksums, and a signature by a key of kmsd; and the bill of cryptography."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.cli.commands.check_cbom import algorithm_of
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from kmsd.domain.material import Algorithm
from kmsd.ports import KindOfMaterial
from tests.support.aws_cli import AWS, environment
from tests.support.daemon import Daemon, provisioned
from tests.support.page_commands import ROOT, commands

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()) or "valid")
"""
"""A program for the environment of requirements-release.txt: what CycloneDX's own schema says of a document."""


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.start()
        yield daemon


def cbom(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The algorithms of `kmsd check --cbom`, by name and place."""
    found = json.loads(daemon.cli("check", "--cbom").stdout)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    return {one["bom-ref"]: one for one in found["components"]}


def test_the_cryptography_in_use(own: Daemon) -> None:
    """Algorithms of the keys that exist, with their number: a kind that is made appears."""
    kms = own.client()
    assert "RSA-3072 signature in hardware" not in cbom(own)
    for _ in range(2):
        kms.create_key(KeySpec="RSA_3072", KeyUsage="SIGN_VERIFY")
    kms.create_key()
    found = cbom(own)
    rsa, aes = found["RSA-3072 signature in hardware"], found["XAES-256-GCM in hardware"]
    assert {"name": "kmsd:keyMaterials:RSA_3072:SIGN_VERIFY", "value": "2"} in rsa["properties"]
    levels = rsa["cryptoProperties"]["algorithmProperties"]
    assert (levels["classicalSecurityLevel"], levels["nistQuantumSecurityLevel"]) == (128, 0)
    assert aes["cryptoProperties"]["algorithmProperties"]["nistQuantumSecurityLevel"] == 5
    assert "HMAC-SHA-256 in software-plain-ram" in found


def test_every_kind_of_key_has_an_algorithm() -> None:
    """Two usages of one spec have two names; a post-quantum algorithm has a category, a classical pair none."""
    kinds = [KindOfMaterial(spec, usage, None) for spec, usages in ALGORITHMS.items() for usage in usages]
    names = {
        algorithm_of(kind).name: kind for kind in kinds if kind.spec not in (KeySpec.SYMMETRIC_DEFAULT, KeySpec.SM2)
    }
    assert len(names) == len([one for one in kinds if one.spec not in (KeySpec.SYMMETRIC_DEFAULT, KeySpec.SM2)])
    for name, kind in names.items():
        found = algorithm_of(kind)
        assert bool(found.category) == (name.startswith(("ML-", "HMAC"))), name
        assert found.bits or found.category, name
    for algorithm in Algorithm:
        symmetric = KindOfMaterial(KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT, algorithm)
        assert "256-GCM" in algorithm_of(symmetric).name


def release(output: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """scripts/release, of the wheel alone."""
    command = [str(ROOT / "scripts" / "release"), "--parts", "wheel chart", "--output", str(output), *arguments]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=600
    )


def test_what_is_refused(tmp_path: Path) -> None:
    """A release that nobody signs, and a folder that is not empty."""
    assert "who signs" in release(tmp_path / "out").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").touch()
    assert "is not empty" in release(tmp_path / "full", "--unsigned").stderr


@pytest.mark.timeout(900)
@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="makes an environment; KMSD_TEST_SLOW=1 runs it")
def test_a_release_that_kmsd_signs(own: Daemon, tmp_path: Path) -> None:
    """The page's commands verify it; a file that was changed does not pass. Both bills fit CycloneDX's schema."""
    key_id = own.client().create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    folder = tmp_path / "release"
    variables = {**environment(own), "PATH": f"{AWS.parent}:{os.environ['PATH']}"}
    done = release(folder, "--kms-key", key_id, **variables)
    assert done.returncode == 0, done.stdout + done.stderr

    def verify() -> subprocess.CompletedProcess[str]:
        script = f"set -euo pipefail\n{commands('docs/releases.md', 'verify')}"
        return subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )

    assert verify().stdout == "Verified OK\n"
    (bill,) = folder.glob("*.cdx.json")
    (chart,) = folder.glob("kmsd-chart-*.tgz")
    with tarfile.open(chart) as archive:
        assert "kmsd/Chart.yaml" in archive.getnames()
    components = {one["name"] for one in json.loads(bill.read_text())["components"]}
    assert {"aiohttp", "cryptography", "python-pkcs11"} <= components
    python = tmp_path / "venv" / "bin" / "python"
    make = f'"$(find_python)" -m venv {python.parents[1]}; install_locked {python} requirements-release.txt'
    subprocess.run(["bash", "-euc", f"root=$PWD; . scripts/lib.sh; {make}"], cwd=ROOT, check=True, timeout=300)
    for document in (bill.read_bytes(), own.cli("check", "--cbom").stdout):
        assert (
            subprocess.run([python, "-c", VALIDATE], input=document, capture_output=True, check=True).stdout
            == b"valid\n"
        )
    bill.write_text(bill.read_text() + " ")
    assert verify().returncode != 0
