"""Files beside a trail: copies of checkpoints, and a probe of the disk."""

from __future__ import annotations

import os
from pathlib import Path

from kmsd.linux.files import write_all

_PROBE = b"\0" * 4096


def try_to_write(path: Path) -> None:
    """Write a file, sync it and remove it. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        write_all(descriptor, _PROBE)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()


def add_copy(path: Path, line: bytes) -> None:
    """Append a line in one short write, so that lines of several writers do not mix. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * torn + line + b"\n")
    finally:
        os.close(descriptor)
