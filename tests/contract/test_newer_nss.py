"""The contract of the token, on an NSS that has ML-DSA and ML-KEM (`scripts/newer-nss`).

The linker reads LD_LIBRARY_PATH when a process starts, and one process has one NSS: each file is run in a process of
its own, where that NSS takes the place of the host's.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tokens import NEWER_NSS, newer_nss

HERE = Path(__file__).parent
POST_QUANTUM = "test_token_post_quantum.py"
FILES = (POST_QUANTUM, "test_token_key_kinds.py", "test_token_signatures.py", "test_token_key_use.py")


@pytest.mark.parametrize("name", FILES)
def test_contract(name: str, tmp_path: Path) -> None:
    """Its tests pass; those of ML-DSA and ML-KEM are all run."""
    module = newer_nss()
    options = ["-q", "-k", "[nss", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, HERE / name],
        cwd=HERE.parents[1],
        env={**os.environ, "KMSD_TEST_NSS": str(module), "LD_LIBRARY_PATH": str(module.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.strip().splitlines()[-1]
    assert " passed" in summary
    if name == POST_QUANTUM:
        assert "skipped" not in summary


def fetched(folder: Path, apt: str) -> str:
    """What the script complains of with this configuration of apt. Fails if it does not refuse."""
    configuration = folder / "apt.conf"
    configuration.write_text(apt)
    done = subprocess.run(
        [NEWER_NSS, folder / "nss"],
        env={**os.environ, "APT_CONFIG": str(configuration)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="this is not Debian")
def test_what_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    """A machine without a source, a mirror that does not answer, a folder of something else; nothing is left behind."""
    no_source = f'Dir::Etc::SourceList "{tmp_path}/none"; Dir::Etc::SourceParts "{tmp_path}";'
    assert "no source of this machine's Debian" in fetched(tmp_path, no_source)
    # A port that is bound and not listening refuses connections at once.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/debian"
        source = tmp_path / "here.list"
        source.write_text(f"deb {mirror} {platform.freedesktop_os_release()['VERSION_CODENAME']} main\n")
        here = f'Dir::Etc::SourceList "{source}"; Dir::Etc::SourceParts "-"; Acquire::Retries "0";'
        assert "could not download" in fetched(tmp_path, here)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".nss.lock", "apt.conf", "here.list"]
    (tmp_path / "nss").mkdir()
    assert "holds no libsoftokn3.so" in fetched(tmp_path, no_source)
