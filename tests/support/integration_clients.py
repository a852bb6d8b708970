"""The clients of docs/integrations.md that a registry has, in an environment of their own that is kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.page_commands import ROOT

LOCK = ROOT / "requirements-integrations.txt"
_CACHE = Path(os.environ.get("KMSD_TEST_CACHE") or Path.home() / ".cache" / "kmsd-tests")


def programs() -> Path:
    """The folder of their programs; installs exactly what the lock pins, on first use (500 MB).

    Raises CalledProcessError if pip cannot.
    """
    stamp = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    folder = _CACHE / "integrations"
    done = folder / "installed"
    if not done.exists() or done.read_text() != stamp:
        venv.create(folder, with_pip=True, clear=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--only-binary", ":all:", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "-r", LOCK], check=True)
        done.write_text(stamp)
    return folder / "bin"
