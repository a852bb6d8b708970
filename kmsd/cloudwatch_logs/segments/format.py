"""The bytes of segments and of their indexes (docs/logs.md). No I/O.

A segment is a header and then records: data keys (wrapped) and frames (sealed). Each record begins and ends
with a marker, and its head has a checksum, so that a torn end is known for what it is and a damaged spot costs
no more than the records in it. An index repeats the heads of one finished segment, a summary of them first.
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
    """The file does not begin as a segment or an index of the expected group does."""


class ByteSource(Protocol):
    """Where a segment is read from."""

    def part(self, begin: int, end: int) -> bytes:
        """These bytes, or as many as there are."""

    def find(self, wanted: bytes, begin: int, end: int) -> int:
        """Where `wanted` lies first, wholly within these bytes; -1: nowhere."""


class Placed(NamedTuple):
    """A frame and where its sealed events lie."""

    frame: Frame
    offset: int
    length: int


class Contents(msgspec.Struct):
    """What a scan of a segment, or its index, tells."""

    frames: list[Placed] = []
    keys: dict[bytes, WrappedKey] = {}
    end: int = HEADER_LENGTH
    """Everything before has been looked at."""
    damaged: int = 0
    """Bytes that were skipped because no record could be read there, although later ones could."""


class _Summary(msgspec.Struct, array_like=True):
    end: int
    damaged: int
    frames: int
    streams: list[tuple[bytes, int, int, int, int, int]]
    keys: list[WrappedKey]


def header(group_id: bytes) -> bytes:
    """How a segment begins."""
    return MAGIC + group_id


def check_header(data: bytes, group_id: bytes) -> None:
    """Raises `NotASegment`."""
    if data[:HEADER_LENGTH] != header(group_id):
        raise NotASegment


def _before(kind: int, head: bytes, length: int) -> bytes:
    start = _HEAD.pack(kind, len(head), length) + head
    return MARK + start + _CRC.pack(zlib.crc32(start))


def key_record(key: WrappedKey) -> bytes:
    """A data key."""
    return _before(KEY, _encode(tuple(key)), 0) + END


def before_frame(frame: Frame, length: int) -> bytes:
    """What precedes `length` sealed bytes of a frame; `END` follows them."""
    return _before(FRAME, frame.encode(), length)


def body_offset(head_length: int) -> int:
    """Where a record's body begins, counted from the record."""
    return _BODY_GAP + head_length


FRAME_BODY = body_offset(log_frame.LENGTH)
"""That of a frame."""
AROUND = FRAME_BODY + len(END)
"""What a frame's record has beside its sealed events."""


def scan(data: ByteSource, contents: Contents, size: int, is_coming: Callable[[int], bool] | None = None) -> None:
    """Read on from `contents.end` to the last whole record before `size`.

    What cannot be read is passed over where whole records follow, unless `is_coming` says that the writer has only
    begun to write there: of one write, the disk may show what is behind before what is in front.
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
    """Of a segment whose writer may have lost power: leave out frames of which sectors were never written.

    What a disk has not written of a file that grew reads as zeros; sealed text does not hold sixteen of them. Such a
    frame was not acknowledged.
    """
    whole = [one for one in contents.frames if data.find(_UNWRITTEN, one.offset, one.offset + one.length) < 0]
    contents.damaged += sum(one.length for one in contents.frames) - sum(one.length for one in whole)
    contents.frames = whole


_UNWRITTEN = bytes(16)


def _head_at(data: ByteSource, position: int, size: int) -> tuple[int, bytes, int, int] | None:
    """(kind, head, body's offset, body's length) of the whole record at `position`; None: there is none."""
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
    """The next whole record after a spot where there is none; None: that spot is the end, torn or not."""
    while (position := data.find(MARK, position + 1, size)) >= 0:
        if _head_at(data, position, size) is not None:
            return position
    return None


def summarize(
    frames: Sequence[Placed], into: Mapping[bytes, StreamSummary] | None = None
) -> dict[bytes, StreamSummary]:
    """By stream id."""
    found = dict(into or {})
    for placed in frames:
        frame = placed.frame
        one = StreamSummary(frame.first_at, frame.last_at, frame.ingested_at, frame.events, frame.size)
        known = found.get(frame.stream_id)
        found[frame.stream_id] = one if known is None else join(known, one)
    return found


def join(one: StreamSummary, other: StreamSummary) -> StreamSummary:
    """What two parts of a stream come to."""
    return StreamSummary(
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        max(one.ingested_at, other.ingested_at),
        one.events + other.events,
        one.size + other.size,
    )


def index(contents: Contents, group_id: bytes) -> bytes:
    """The index of a finished segment."""
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
    """A frame in an index."""
    return placed.frame.encode() + _PLACE.pack(placed.offset, placed.length)


INDEX_START = len(INDEX_MAGIC) + 16 + _INDEX_HEAD.size
"""Bytes of an index that say how long its parts are."""


def index_lengths(start: bytes, group_id: bytes) -> tuple[int, int]:
    """Lengths of summary and entries. Raises `NotASegment`."""
    if len(start) < INDEX_START or start[: len(INDEX_MAGIC) + 16] != INDEX_MAGIC + group_id:
        raise NotASegment
    summary, _, entries, _ = _INDEX_HEAD.unpack_from(start, len(INDEX_MAGIC) + 16)
    return summary, entries


def read_summary(start: bytes, data: bytes) -> tuple[Contents, dict[bytes, StreamSummary]]:
    """Keys and streams of an index, without its frames. Raises `NotASegment` if it is damaged."""
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
    """The frames of an index. Raises `NotASegment` if it is damaged."""
    _, _, _, checksum = _INDEX_HEAD.unpack_from(start, len(INDEX_MAGIC) + 16)
    if zlib.crc32(data) != checksum or len(data) % _ENTRY:
        raise NotASegment
    return placed_in(data)


def placed_in(entries: bytes | bytearray) -> list[Placed]:
    """The frames of an index's entries."""
    return [
        Placed(log_frame.decode(entries, at), *_PLACE.unpack_from(entries, at + log_frame.LENGTH))
        for at in range(0, len(entries), _ENTRY)
    ]
