"""Frames for tests of log segments, and what is found of them."""

from __future__ import annotations

from kmsd.cloudwatch_logs.frames import Frame, FrameIds, WrappedKey
from kmsd.cloudwatch_logs.ports import FrameQuery, Segments, StoredFrame

GROUP, OTHER = b"G" * 16, b"H" * 16
KEY = WrappedKey(b"k" * 16, "arn:aws:kms:x", "arn:aws:logs:g", b"wrapped")
ids = FrameIds()


def frame(first: int, last: int | None = None, *, stream: int = 0, at: int = 1_000_000, key: WrappedKey = KEY) -> Frame:
    """A header."""
    last = first if last is None else last
    return Frame(bytes([stream]) * 16, key.data_key_id, ids.next(at * 1000), first, last, at, 2, 60, 0)


async def found(segments: Segments, group: bytes = GROUP, **wanted: object) -> list[StoredFrame]:
    """What `find` finds."""
    return [one async for one in segments.find(group, FrameQuery(**wanted))]  # type: ignore[arg-type] # a test's short form
