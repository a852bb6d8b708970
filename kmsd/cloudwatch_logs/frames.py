"""A frame: a batch of events of one stream as it lies in a segment, its header in the clear, its events sealed.

The layout is published in docs/logs.md. The header is authenticated with the events (`associated_data`), so
that a frame cannot be passed off as another stream's, another time's or another group's.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

VERSION = 1
"""Append only: a number is never given another meaning."""
_LAYOUT = struct.Struct(">16s16s10sQQQIIB")
LENGTH = _LAYOUT.size
PLAIN = 0
DEFLATE = 1
_ID_MICROS = 7
_ID_PROCESS = 3


class Frame(NamedTuple):
    """The header."""

    stream_id: bytes
    data_key_id: bytes
    """Names the data key under which the events are sealed; 16 bytes."""
    frame_id: bytes
    """10 bytes; sorts by ingestion and is never given twice. The nonce of the sealing."""
    first_at: int
    """Milliseconds of the oldest event."""
    last_at: int
    """Milliseconds of the newest event."""
    ingested_at: int
    events: int
    """How many."""
    size: int
    """Bytes of all messages in UTF-8, and 26 for each event, as PutLogEvents counts."""
    packing: int
    """How the events were compressed before they were sealed: `PLAIN`, `DEFLATE`."""

    def encode(self) -> bytes:
        """The header's bytes."""
        return _LAYOUT.pack(*self)


class WrappedKey(NamedTuple):
    """A data key as it is stored beside the frames that it sealed."""

    data_key_id: bytes
    kms_key: str
    """ARN of the key that it is wrapped under; empty: the daemon's own."""
    context_arn: str
    """The encryption context's `aws:logs:arn`."""
    blob: bytes


def decode(data: bytes | bytearray, offset: int = 0) -> Frame:
    """The inverse of `Frame.encode`."""
    return Frame._make(_LAYOUT.unpack_from(data, offset))


def associated_data(owner: bytes, header: bytes) -> bytes:
    """What is authenticated with the events: version, the group's id, the header."""
    return bytes((VERSION,)) + owner + header


def nonce(frame_id: bytes) -> bytes:
    """The 96-bit nonce: a data key seals in one process only, and that process never gives a frame id twice."""
    return frame_id + b"\x00\x00"


class FrameIds:
    """The frame ids of one process: microseconds of ingestion, made to grow, and three bytes drawn once."""

    def __init__(self) -> None:
        self._process = os.urandom(_ID_PROCESS)
        self._last = 0

    def next(self, micros: int) -> bytes:
        """An id later than every one before, and not earlier than `micros` since 1970."""
        self._last = max(self._last + 1, micros)
        return self._last.to_bytes(_ID_MICROS, "big") + self._process
