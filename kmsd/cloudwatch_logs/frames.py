"""Frame format: a batch of events of one stream in a segment, with a cleartext header and encrypted events.

docs/logs.md publishes the layout. The header is authenticated together with the events (`associated_data`), so a frame
cannot be passed off as belonging to another stream, time or group.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

VERSION = 1
"""Version of the format. Append only: a number is never reused."""
_LAYOUT = struct.Struct(">16s16s10sQQQIIB")
LENGTH = _LAYOUT.size
PLAIN = 0
DEFLATE = 1
MAX_SPAN = 86_400_000
"""Limit on the milliseconds between the oldest and newest event of a frame: a store finds frames by either of them."""
_ID_MICROS = 7
_ID_PROCESS = 3


class Frame(NamedTuple):
    """Header of a frame."""

    stream_id: bytes
    data_key_id: bytes
    """Id of the data key that encrypts the events; 16 bytes."""
    frame_id: bytes
    """10 bytes; sorts by ingestion and is never reused. Serves as the nonce."""
    first_at: int
    """Timestamp of the oldest event, in milliseconds."""
    last_at: int
    """Timestamp of the newest event, in milliseconds."""
    ingested_at: int
    events: int
    """Number of events."""
    size: int
    """Bytes of all messages in UTF-8, plus 26 per event, as PutLogEvents counts."""
    packing: int
    """Compression of the events before encryption: `PLAIN` or `DEFLATE`."""

    def encode(self) -> bytes:
        """Return the header's bytes."""
        return _LAYOUT.pack(*self)


class WrappedKey(NamedTuple):
    """Wrapped data key, stored with the frames that it encrypts."""

    data_key_id: bytes
    kms_key: str
    """ARN of the key that it is wrapped under; empty: the daemon's own key."""
    context_arn: str
    """Value of `aws:logs:arn` in the encryption context."""
    blob: bytes


def decode(data: bytes | bytearray, offset: int = 0) -> Frame:
    """Decode a header; the inverse of `Frame.encode`."""
    return Frame._make(_LAYOUT.unpack_from(data, offset))


def associated_data(owner: bytes, header: bytes) -> bytes:
    """Return what is authenticated with the events: version, the group's id, the header."""
    return bytes((VERSION,)) + owner + header


def nonce(frame_id: bytes) -> bytes:
    """Return the 96-bit nonce. A data key encrypts in one process only, which never reuses a frame id."""
    return frame_id + b"\x00\x00"


class FrameIds:
    """Generator of a process's frame ids: strictly increasing microseconds and three random bytes drawn once."""

    def __init__(self) -> None:
        self._process = os.urandom(_ID_PROCESS)
        self._last = 0

    def next(self, micros: int) -> bytes:
        """Return an id greater than all before, and not less than `micros` since 1970."""
        self._last = max(self._last + 1, micros)
        return self._last.to_bytes(_ID_MICROS, "big") + self._process
