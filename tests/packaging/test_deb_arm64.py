"""The Debian package for arm64, built on another architecture: what is in it, and how it runs under emulation."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import kmsd
from tests.host import image, packages
from tests.support.tokens import PIN, SO_PIN

EMULATOR = "qemu-aarch64-static"
AARCH64 = 183
"""`e_machine` of an ELF file."""
IN_THE_ROOT = ("python3", "libstdc++6", "softhsm2", "softhsm2-common", "libgcc-s1")
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from kmsd.cli.main import main; sys.exit(main())"
TOML = """data_dir = "{folder}/data"
region = "eu-arm-1"
[listen]
address = "127.0.0.1:8443"
[token]
module = "{root}/usr/lib/softhsm/libsofthsm2.so"
label = "arm"
pin_file = "{folder}/pin"
dir_sync = "{folder}/tokens"
environment = {{ SOFTHSM2_CONF = "{folder}/softhsm2.conf" }}
"""
pytestmark = [
    pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes minutes; set KMSD_TEST_SLOW"),
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this is the architecture: test_deb tests it"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module", name="package")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = ("--output", str(tmp_path_factory.mktemp("package")))
    (made,) = packages.run_package(
        image.ROOT, "deb", "--debian", "12", "--architecture", "arm64", *output, offline=False
    )
    return made


def test_it_holds_programs_of_that_architecture(package: Path, tmp_path: Path) -> None:
    """And of no other one."""
    done = subprocess.run(["dpkg-deb", "--field", package, "Architecture"], capture_output=True, text=True, check=True)
    assert done.stdout == "arm64\n"
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    extensions = list(tmp_path.rglob("*.so"))
    assert len(extensions) > 10
    for path in extensions:
        head = path.read_bytes()[:20]
        assert (head[:4], int.from_bytes(head[18:20], "little")) == (b"\x7fELF", AARCH64), path


def test_it_makes_keys_in_a_token(package: Path, tmp_path: Path) -> None:
    """`kmsd init` and `kmsd check`, with Python and SoftHSM2 of the same architecture."""
    for tool in (EMULATOR, "mmdebstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the package for arm64 was not run")
    root = tmp_path / "root"
    options = ["--quiet", "--variant=extract", "--architectures=arm64", f"--include={','.join(IN_THE_ROOT)}"]
    subprocess.run(["mmdebstrap", *options, image.SUITE, root], check=True, timeout=600)
    subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    (tmp_path / "pin").write_bytes(PIN)
    (tmp_path / "pin").chmod(0o600)
    (tmp_path / "kmsd.toml").write_text(TOML.format(folder=tmp_path, root=root))

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EMULATOR, "-L", root, root / "usr/bin" / program, *arguments],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    pins = ("--so-pin", SO_PIN, "--pin", PIN.decode())
    assert run("softhsm2-util", "--init-token", "--free", "--label", "arm", *pins).returncode == 0
    modules = root / "usr/lib/kmsd" / kmsd.__version__ / "lib/python3.11/site-packages"
    command = ("-S", "-B", "-c", START, str(modules), "--config", str(tmp_path / "kmsd.toml"))
    made = run("python3.11", *command, "init", "--format", "env")
    assert "AWS_ACCESS_KEY_ID" in made.stdout, made.stderr
    checked = run("python3.11", *command, "check")
    assert "every object has the attributes that its role promises" in checked.stdout, checked.stdout + checked.stderr
