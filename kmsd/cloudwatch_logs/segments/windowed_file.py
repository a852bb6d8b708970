"""A file read where it is looked at.

Not mapped into memory: a mapped page that the disk cannot give, or that was cut off meanwhile, ends the process by a
signal, and `mmap.find` of Python before 3.11.4 looks at a byte behind the mapping.
"""

from __future__ import annotations

import os

WINDOW = 4096
"""Bytes read at once: the end of a record, the head of the next, and, of small ones, those after it."""
CHUNK = 262_144
"""Bytes searched at once."""


class WindowedFile:
    """Methods raise OSError. What lies behind the file's end is missing from what they return."""

    __slots__ = ("_begin", "_descriptor", "_window")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begin = 0
        self._window = b""

    def part(self, begin: int, end: int) -> bytes:
        """These bytes of the file."""
        at = begin - self._begin
        if at < 0 or end - self._begin > len(self._window):
            self._window = os.pread(self._descriptor, max(end - begin, WINDOW), begin)
            self._begin, at = begin, 0
        return self._window[at : at + end - begin]

    def find(self, wanted: bytes, begin: int, end: int) -> int:
        """Where `wanted` lies first, wholly within these bytes; -1: nowhere."""
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
        """Whether there is nothing but zeros up to here."""
        return all(not self.part(at, min(at + CHUNK, end)).strip(b"\0") for at in range(0, end, CHUNK))
