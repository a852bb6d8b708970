"""File reader that reads only the parts looked at.

The file is not mapped into memory. Access to a mapped page that the disk cannot read, or that was truncated, kills the
process with a signal. Also, `mmap.find` of Python before 3.11.4 reads one byte beyond the mapping.
"""

from __future__ import annotations

import os

WINDOW = 4096
"""Bytes read at once: the end of a record, the head of the next, and following records if they are small."""
CHUNK = 262_144
"""Bytes searched at once."""


class WindowedFile:
    """Windowed reader of a file. Methods raise OSError. Results omit bytes beyond the file's end."""

    __slots__ = ("_begin", "_descriptor", "_window")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begin = 0
        self._window = b""

    def part(self, begin: int, end: int) -> bytes:
        """Return bytes `begin` to `end` of the file."""
        at = begin - self._begin
        if at < 0 or end - self._begin > len(self._window):
            self._window = os.pread(self._descriptor, max(end - begin, WINDOW), begin)
            self._begin, at = begin, 0
        return self._window[at : at + end - begin]

    def find(self, wanted: bytes, begin: int, end: int) -> int:
        """Return the first offset of `wanted`, wholly between `begin` and `end`; -1 if it is not there."""
        while end - begin >= len(wanted):
            chunk = os.pread(self._descriptor, min(CHUNK, end - begin), begin)
            found = chunk.find(wanted)
            if found >= 0:
                return begin + found
            if len(chunk) < len(wanted):
                return -1
            begin += len(chunk) - len(wanted) + 1
        return -1

    def is_blank(self, end: int) -> bool:
        """True if the file contains only zeros up to `end`."""
        return all(not self.part(at, min(at + CHUNK, end)).strip(b"\0") for at in range(0, end, CHUNK))
