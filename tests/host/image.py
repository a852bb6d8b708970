"""A minimal Debian 12 with systemd, made once and kept; and the wheels that `scripts/install` needs inside it.

Both lie in `$KMSD_TEST_CACHE` (else `$XDG_CACHE_HOME/kmsd-tests`, else `~/.cache/kmsd-tests`). The name of a folder has
the hash of what decides its content: a change of the list makes a new one. A folder that exists is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = (
    # The host itself, as docs/install.md expects it.
    *("systemd", "systemd-sysv", "dbus", "python3", "git", "ca-certificates"),
    # What scripts/install, scripts/run and the pages install or call. The booted host has no network.
    *("python3-venv", "softhsm2", "opensc", "libnss3", "libnss3-tools", "openssl", "curl", "procps"),
)


Make = Callable[[Path], None]
"""Makes the folder that it is given."""


class UnavailableError(Exception):
    """This machine cannot make or boot the host; the text says why."""


def cache() -> Path:
    """The folder of what is kept between runs."""
    named = os.environ.get("KMSD_TEST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kmsd-tests"


def debian(suite: str = SUITE, packages: tuple[str, ...] = PACKAGES) -> Path:
    """The root of a Debian; its files belong to root."""
    if os.geteuid() != 0:
        raise UnavailableError("making a Debian takes root")
    if shutil.which("mmdebstrap") is None:
        raise UnavailableError("mmdebstrap is not installed")
    mirror = [os.environ["KMSD_TEST_MIRROR"]] if "KMSD_TEST_MIRROR" in os.environ else []

    def make(folder: Path) -> None:
        options = ["--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
        _run("mmdebstrap", *options, suite, str(folder), *mirror)

    return kept("debian", " ".join((suite, *packages, *mirror)).encode(), make)


def wheels() -> Path:
    """Every wheel that the requirement files pin, for the Python of that Debian."""
    files = sorted(ROOT.glob("requirements*.txt"))

    def make(folder: Path) -> None:
        folder.mkdir(mode=0o755)
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", "3.11"]
        requirements = [word for file in files for word in ("-r", str(file))]
        _run(sys.executable, "-m", "pip", "download", "--quiet", *options, *requirements, "--dest", str(folder))

    return kept("wheels", b"".join(file.read_bytes() for file in files), make)


def checkout(target: Path) -> None:
    """Copy this checkout as git knows it, with what is not committed yet."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def kept(kind: str, inputs: bytes, make: Make) -> Path:
    """The folder of this kind that was made from these inputs."""
    path = cache() / f"{kind}-{hashlib.sha256(inputs).hexdigest()[:16]}"
    with _alone(kind):
        if not path.exists():
            new = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=cache()))
            try:
                make(new / "root")
                (new / "root").rename(path)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return path


@contextmanager
def _alone(kind: str) -> Iterator[None]:
    """Two runs of the tests do not make the same folder at the same time."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} did not end within {error.timeout:.0f} s") from error
    if done.returncode != 0:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise UnavailableError(f"{Path(command[0]).name} failed ({done.returncode}): {tail}")
