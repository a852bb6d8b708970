"""Buffered index entries of the segment being written, so that finishing it needs no read from disk."""

from __future__ import annotations

from collections.abc import Sequence

from kmsd.cloudwatch_logs.frames import WrappedKey
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments.format import Contents, Placed

MAX_BYTES = 65_536
MAX_KEYS = 64
"""Limits of a buffer, in bytes and data keys. Beyond them it is dropped, and the finished segment is read instead.
A busy group writes a hundred thousand small frames into one segment, and a process has 256 groups. A segment holds only
few large frames."""


class IndexBuffer:
    """Index entries and data keys of one segment."""

    def __init__(self) -> None:
        self._entries: bytearray | None = bytearray()
        self._keys: dict[bytes, WrappedKey] = {}

    def add(self, placed: Sequence[Placed], keys: Sequence[WrappedKey]) -> None:
        """Add frames and data keys that have been written."""
        entries = self._entries
        if entries is None:
            return
        self._keys.update((key.data_key_id, key) for key in keys)
        for one in placed:
            entries += fmt.entry(one)
        if len(entries) > MAX_BYTES or len(self._keys) > MAX_KEYS:
            self._entries = None
            self._keys.clear()

    def contents(self, end: int) -> Contents | None:
        """Return the segment's contents up to `end`; None if they exceeded the limits."""
        if self._entries is None:
            return None
        return Contents(fmt.placed_in(self._entries), dict(self._keys), end)
