"""Binary format of segments and their indexes (docs/logs.md). No I/O.

A segment is a header followed by records: data keys (wrapped) and frames (encrypted). Each record begins and ends with
a marker, and its head has a checksum. So a torn end is recognised, and damage costs only the records that it touches.
An index repeats the heads of one finished segment, after a summary of them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from kmsd.cloudwatch_logs import frames as log_frame
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.cloudwatch_logs.ports import StreamSummary

MAGIC = b"kmsdlogs\x01"
INDEX_MAGIC = b"kmsdlidx\x01"
HEADER_LENGTH = len(MAGIC) + 16
MARK = b"\xa7kL\x1e"
END = b"\x1eLk\xa7"
KEY = 1
FRAME = 2
_HEAD = struct.Struct(">BHI")
_CRC = struct.Struct(">I")
_HEAD_AT = len(MARK)
_BODY_GAP = len(MARK) + _HEAD.size + _CRC.size
_PLACE = struct.Struct(">QI")
_ENTRY = log_frame.LENGTH + _PLACE.size
_INDEX_HEAD = struct.Struct(">IIII")
_encode = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(tuple[bytes, str, str, bytes]).decode


class NotASegment(Exception):
    """The file does not begin like a segment or index of the expected group."""


class ByteSource(Protocol):
    """Random access to the bytes of a segment."""

    def part(self, begin: int, end: int) -> bytes:
        """Return bytes `begin` to `end`, or as many of them as exist."""

    def find(self, wanted: bytes, begin: int, end: int) -> int:
        """Return the first offset of `wanted`, wholly between `begin` and `end`; -1 if it is not there."""


class Placed(NamedTuple):
    """Frame and the location of its encrypted events."""

    frame: Frame
    offset: int
    length: int


class Contents(msgspec.Struct):
    """Contents of a segment, from a scan or from its index."""

    frames: list[Placed] = []
    keys: dict[bytes, WrappedKey] = {}
    end: int = HEADER_LENGTH
    """End of the part that has been scanned."""
    damaged: int = 0
    """Bytes skipped because no record could be read there, although later ones could."""


class _Summary(msgspec.Struct, array_like=True):
    end: int
    damaged: int
    frames: int
    streams: list[tuple[bytes, int, int, int, int, int]]
    keys: list[WrappedKey]


def header(group_id: bytes) -> bytes:
    """Return the first bytes of a segment."""
    return MAGIC + group_id


def check_header(data: bytes, group_id: bytes) -> None:
    """Check the first bytes of a segment. Raises `NotASegment`."""
    if data[:HEADER_LENGTH] != header(group_id):
        raise NotASegment


def _before(kind: int, head: bytes, length: int) -> bytes:
    start = _HEAD.pack(kind, len(head), length) + head
    return MARK + start + _CRC.pack(zlib.crc32(start))


def key_record(key: WrappedKey) -> bytes:
    """Encode the record of a data key."""
    return _before(KEY, _encode(tuple(key)), 0) + END


def before_frame(frame: Frame, length: int) -> bytes:
    """Return the bytes before `length` encrypted bytes of a frame; `END` follows them."""
    return _before(FRAME, frame.encode(), length)


def body_offset(head_length: int) -> int:
    """Return the offset of a record's body from the start of the record."""
    return _BODY_GAP + head_length


FRAME_BODY = body_offset(log_frame.LENGTH)
"""Offset of a frame's body from the start of its record."""
AROUND = FRAME_BODY + len(END)
"""Bytes of a frame's record in addition to its encrypted events."""


def scan(data: ByteSource, contents: Contents, size: int, is_coming: Callable[[int], bool] | None = None) -> None:
    """Scan from `contents.end` to the last complete record before `size`.

    Unreadable bytes are skipped if complete records follow, unless `is_coming` is true for their position: the writer
    may still be writing there. The disk may show the end of a write before its beginning.
    """
    position = contents.end
    while True:
        found = _head_at(data, position, size)
        if found is None:
            after = _resume(data, position, size)
            if after is None or (is_coming is not None and is_coming(position)):
                break
            contents.damaged += after - position
            position = after
            continue
        kind, head, body, length = found
        if kind == KEY:
            key = WrappedKey._make(_decode_key(head))
            contents.keys[key.data_key_id] = key
        elif kind == FRAME:
            contents.frames.append(Placed(log_frame.decode(head), body, length))
        position = body + length + len(END)
    contents.end = position


def leave_out_torn(data: ByteSource, contents: Contents) -> None:
    """Drop frames with unwritten sectors from a segment whose writer may have lost power.

    Sectors not yet written when a file grew read as zeros. Encrypted events do not contain sixteen zero bytes. Such a
    frame was never acknowledged.
    """
    whole = [one for one in contents.frames if data.find(_UNWRITTEN, one.offset, one.offset + one.length) < 0]
    contents.damaged += sum(one.length for one in contents.frames) - sum(one.length for one in whole)
    contents.frames = whole


_UNWRITTEN = bytes(16)


def _head_at(data: ByteSource, position: int, size: int) -> tuple[int, bytes, int, int] | None:
    """Return kind, head, body offset and body length of the complete record at `position`; None if there is none."""
    begun = data.part(position, position + _HEAD_AT + _HEAD.size)
    if len(begun) < _HEAD_AT + _HEAD.size or not begun.startswith(MARK):
        return None
    kind, head_length, length = _HEAD.unpack_from(begun, _HEAD_AT)
    body = position + _BODY_GAP + head_length
    end = body + length + len(END)
    if end > size:
        return None
    head = data.part(position + _HEAD_AT, body)
    checked, checksum = head[: -_CRC.size], head[-_CRC.size :]
    if checksum != _CRC.pack(zlib.crc32(checked)) or data.part(end - len(END), end) != END:
        return None
    return kind, checked[_HEAD.size :], body, length


def _resume(data: ByteSource, position: int, size: int) -> int | None:
    """Return the next complete record after an unreadable spot; None if that spot is the end, torn or not."""
    while (position := data.find(MARK, position + 1, size)) >= 0:
        if _head_at(data, position, size) is not None:
            return position
    return None


def summarize(
    frames: Sequence[Placed], into: Mapping[bytes, StreamSummary] | None = None
) -> dict[bytes, StreamSummary]:
    """Summarise frames by stream id, optionally merged into earlier summaries."""
    found = dict(into or {})
    for placed in frames:
        frame = placed.frame
        one = StreamSummary(frame.first_at, frame.last_at, frame.ingested_at, frame.events, frame.size)
        known = found.get(frame.stream_id)
        found[frame.stream_id] = one if known is None else join(known, one)
    return found


def join(one: StreamSummary, other: StreamSummary) -> StreamSummary:
    """Merge the summaries of two parts of a stream."""
    return StreamSummary(
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        max(one.ingested_at, other.ingested_at),
        one.events + other.events,
        one.size + other.size,
    )


def index(contents: Contents, group_id: bytes) -> bytes:
    """Encode the index of a finished segment."""
    summary = _encode(
        _Summary(
            end=contents.end,
            damaged=contents.damaged,
            frames=len(contents.frames),
            streams=[(stream, *values) for stream, values in summarize(contents.frames).items()],
            keys=list(contents.keys.values()),
        )
    )
    entries = b"".join(map(entry, contents.frames))
    head = _INDEX_HEAD.pack(len(summary), zlib.crc32(summary), len(entries), zlib.crc32(entries))
    return INDEX_MAGIC + group_id + head + summary + entries


def entry(placed: Placed) -> bytes:
    """Encode the index entry of a frame."""
    return placed.frame.encode() + _PLACE.pack(placed.offset, placed.length)


INDEX_START = len(INDEX_MAGIC) + 16 + _INDEX_HEAD.size
"""Bytes at the start of an index up to and including the lengths of its parts."""


def index_lengths(start: bytes, group_id: bytes) -> tuple[int, int]:
    """Return the lengths of summary and entries. Raises `NotASegment`."""
    if len(start) < INDEX_START or start[: len(INDEX_MAGIC) + 16] != INDEX_MAGIC + group_id:
        raise NotASegment
    summary, _, entries, _ = _INDEX_HEAD.unpack_from(start, len(INDEX_MAGIC) + 16)
    return summary, entries


def read_summary(start: bytes, data: bytes) -> tuple[Contents, dict[bytes, StreamSummary]]:
    """Return keys and streams of an index, without its frames. Raises `NotASegment` if it is damaged."""
    _, checksum, _, _ = _INDEX_HEAD.unpack_from(start, len(INDEX_MAGIC) + 16)
    if zlib.crc32(data) != checksum:
        raise NotASegment
    try:
        summary = msgspec.msgpack.decode(data, type=_Summary)
    except msgspec.DecodeError as exc:
        raise NotASegment from exc
    keys = {key.data_key_id: key for key in summary.keys}
    streams = {stream[0]: StreamSummary._make(stream[1:]) for stream in summary.streams}
    return Contents([], keys, summary.end, summary.damaged), streams


def read_entries(start: bytes, data: bytes) -> list[Placed]:
    """Return the frames of an index. Raises `NotASegment` if it is damaged."""
    _, _, _, checksum = _INDEX_HEAD.unpack_from(start, len(INDEX_MAGIC) + 16)
    if zlib.crc32(data) != checksum or len(data) % _ENTRY:
        raise NotASegment
    return placed_in(data)


def placed_in(entries: bytes | bytearray) -> list[Placed]:
    """Decode the entries of an index."""
    return [
        Placed(log_frame.decode(entries, at), *_PLACE.unpack_from(entries, at + log_frame.LENGTH))
        for at in range(0, len(entries), _ENTRY)
    ]
