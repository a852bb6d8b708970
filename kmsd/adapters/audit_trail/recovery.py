"""Find the end of a trail's file: its last complete line, and the torn bytes that a crash left after it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kmsd.adapters.audit_trail.format import Head, Malformed, control_members, digest_of, pinned_key, split

WINDOW = 1024 * 1024
"""Bytes at the end of a file that are checked when a writer starts; `kmsd audit verify` checks all of it."""


class TrailEnd(msgspec.Struct, frozen=True):
    """End of a trail's file."""

    head: Head
    """Last complete line; sequence 0 if there is none."""
    durable: int
    """Bytes up to and including that line."""
    last_line: bytes
    torn: bytes
    """Bytes after it: the beginning of a line that was never acknowledged."""
    damaged: bool
    """True if a complete line within the window does not follow from the previous one. No crash causes that."""
    public_key: bytes | None
    """Key that the file's first line pins."""
    node_id: str
    """Node that the first line names; empty: none."""


def read(path: Path, window: int = WINDOW) -> TrailEnd:
    """Examine the last `window` bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        first = file.readline(65536)
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - window)
        file.seek(start)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    torn = data[whole:]
    lines = data[:whole].split(b"\n")[:-1]
    if start > 0:
        lines = lines[1:]
    head, damaged = _follow(lines)
    last_line = lines[-1] + b"\n" if lines else b""
    return TrailEnd(head, start + whole, last_line, torn, damaged, *_pinned(first))


def _follow(lines: list[bytes]) -> tuple[Head, bool]:
    """Return the head after `lines`, and True if one of them is malformed or does not follow from the previous one."""
    head, damaged = Head(), False
    known = False
    for line in lines:
        try:
            printed, record = split(line)
        except Malformed:
            damaged = True
            continue
        if known and (printed.sequence != head.sequence + 1 or printed.digest != digest_of(head.digest, record)):
            damaged = True
        head, known = printed, True
    return head, damaged


def _pinned(first: bytes) -> tuple[bytes | None, str]:
    """Return the key that the first line pins, and the node that it names."""
    try:
        members = control_members(split(first.rstrip(b"\n"))[1]) or {}
        return pinned_key(members), str(members.get("nodeId", ""))
    except Malformed:
        return None, ""


def ends_with(path: Path, end: int, last_line: bytes) -> bool:
    """True if the file has `last_line` right before offset `end`. Raises OSError."""
    with path.open("rb") as file:
        file.seek(end - len(last_line))
        return file.read(len(last_line)) == last_line


def cut(path: Path, end: int) -> None:
    """Truncate a file to `end` bytes; durable on return. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size > end:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
