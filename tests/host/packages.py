"""Debian packages of this checkout, built by `scripts/package` with the wheels that are kept beside the Debian.

They are kept there too. The name of a package's folder has the hash of all that goes into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import kmsd
from tests.host import image

INPUTS = ("kmsd", "docs", "systemd", "softhsm", "deploy", "scripts", "pyproject.toml", "*.md", "requirements*.txt")
DATE = 1_700_000_000
"""Of all files in the packages, in seconds."""
VERSION, NEXT = kmsd.__version__, "99.0"
"""Versions of this checkout, and of the package that is an upgrade."""
SECONDS_KEPT = 7 * 24 * 3600


def run_package(root: Path, *arguments: str, date: int | None = DATE, offline: bool = True) -> list[Path]:
    """What `scripts/package` of a checkout makes. Without a date its files have that of the commit."""
    environment = dict(os.environ)
    environment.pop("SOURCE_DATE_EPOCH", None)
    if offline:
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(image.wheels())}
    if date is not None:
        environment["SOURCE_DATE_EPOCH"] = str(date)
    command = [str(root / "scripts/package"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def build(root: Path, output: Path) -> None:
    """The package of a checkout for the Debian of `image.debian`."""
    run_package(root, "deb", "--debian", "12", "--output", str(output))


def deb() -> Path:
    """The package of this checkout."""
    return _kept("", lambda folder: build(image.ROOT, folder))


def next_deb(work: Path) -> Path:
    """A package of the same with a higher version. The folder `work` may be used for making it."""

    def make(folder: Path) -> None:
        image.checkout(work)
        module = work / "kmsd/__init__.py"
        module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEXT}"', module.read_text()))
        build(work, folder)

    return _kept(NEXT, make)


def _kept(version: str, make: image.Make) -> Path:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS]
    names = subprocess.run(listed, cwd=image.ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    hashed = hashlib.sha256(f"{version} {image.wheels().name}".encode())
    for path in (image.ROOT / name for name in sorted(filter(None, names))):
        if path.exists():
            hashed.update(f"{path.relative_to(image.ROOT)} {path.stat().st_mode:o} ".encode() + path.read_bytes())
    folder = image.kept("deb", hashed.digest(), make)
    os.utime(folder)
    for other in image.cache().glob("deb-*"):
        if time.time() - other.stat().st_mtime > SECONDS_KEPT:
            shutil.rmtree(other)
    (found,) = folder.glob("*.deb")
    return found
