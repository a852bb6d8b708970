"""Log events: the rules of PutLogEvents, the encoding of a batch, and the order of events in a group."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kmsd.cloudwatch_logs import frames
from kmsd.cloudwatch_logs.frames import MAX_SPAN
from kmsd.cloudwatch_logs.shapes import InputLogEvent, OutputLogEvent, RejectedLogEventsInfo
from kmsd.errors import InvalidParameterException

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.frames import Frame

OVERHEAD = 26
"""PutLogEvents: "the sum of all event messages in UTF-8, plus 26 bytes for each log event"."""
MAX_BYTES = 1_048_576
DAY = 86_400_000
TOO_NEW = 2 * 3_600_000
"""PutLogEvents: "Events more than 2 hours in the future are rejected"."""
TOO_OLD = 14 * DAY
"""PutLogEvents: "Events older than 14 days or preceding the log group's retention period are rejected"."""
POSITION_DIGITS = 56
LEVEL = 1
"""Compression level."""
PIECE = 61_440
"""Bytes compressed at a time: the most that fits deflate's window without moving it, which costs as much as
compressing."""
_INDEX_BITS = 16
_ID_BITS = 80 + _INDEX_BITS
_encoder = msgspec.msgpack.Encoder()
_show = msgspec.json.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[str]]).decode


class LogEvent(NamedTuple):
    """Event read from a segment. Events sort by time, then by ingestion."""

    position: int
    """Unique in its group; `position >> 96` is the timestamp."""
    timestamp: int
    message: str
    ingested_at: int
    stream_id: bytes
    shown: msgspec.Raw = msgspec.Raw()
    """JSON object as GetLogEvents returns it; empty unless requested."""


class Batch(msgspec.Struct, frozen=True):
    """Accepted events of a request, oldest first, and the report on the rejected ones."""

    times: Sequence[int]
    messages: Sequence[str]
    size: int
    rejected: RejectedLogEventsInfo | None = None


def position_at(timestamp: int) -> int:
    """Return the position before every event of this millisecond and after all earlier ones."""
    return timestamp << _ID_BITS


def position_text(position: int) -> str:
    """Return the position as text, for an event id or a token."""
    return f"{position:0{POSITION_DIGITS}d}"


def check(events: Sequence[InputLogEvent], now: int, oldest_kept: int) -> Batch:
    """Check a request against the rules of PutLogEvents; `oldest_kept` is the limit of the group's retention.

    Raises InvalidParameterException for a batch that is refused as a whole.
    """
    messages = [event.message for event in events]
    times = [event.timestamp for event in events]
    size = size_of(messages)
    if size > MAX_BYTES and (longest := max(map(_length, messages))) > MAX_BYTES:
        raise InvalidParameterException(f"Log event too large: {longest} bytes exceeds limit of {MAX_BYTES}")
    if times != sorted(times):
        raise InvalidParameterException("Log events in a single PutLogEvents request must be in chronological order.")
    if size > MAX_BYTES:
        raise InvalidParameterException(f"Upload too large: {size} bytes exceeds limit of {MAX_BYTES}")
    return _within_time(Batch(times, messages, size), now, oldest_kept)


def _length(message: str) -> int:
    return len(message) if message.isascii() else len(message.encode())


def size_of(messages: Sequence[str]) -> int:
    """Return the bytes of messages as PutLogEvents counts them."""
    return OVERHEAD * len(messages) + sum(map(len if all(map(str.isascii, messages)) else _length, messages))


def ends_of(messages: Sequence[str]) -> list[int]:
    """Return the running totals of `size_of`: for the first message, the first two, and so on."""
    lengths = map(len if all(map(str.isascii, messages)) else _length, messages)
    return list(accumulate(map(add, lengths, repeat(OVERHEAD))))


def _within_time(batch: Batch, now: int, oldest_kept: int) -> Batch:
    """Drop events that are too old, expired or too new. Events are in order, so these are at the ends of the batch."""
    times = batch.times
    begin, end = 0, len(times)
    too_old = expired = too_new = None
    if times[0] < max(now - TOO_OLD, oldest_kept):
        aged, unkept = bisect_left(times, now - TOO_OLD), bisect_left(times, oldest_kept)
        too_old, expired = aged or None, unkept if unkept > aged else None
        begin = max(aged, unkept)
    if times[-1] > now + TOO_NEW:
        too_new = end = bisect_right(times, now + TOO_NEW)
    if (begin, end) != (0, len(times)):
        rejected = RejectedLogEventsInfo(too_new, too_old, expired)
        messages, times = batch.messages[begin:end], times[begin:end]
        batch = Batch(times, messages, size_of(messages), rejected)
    # "For valid events …, the time span in a single batch cannot exceed 24 hours."
    if times and times[-1] - times[0] > MAX_SPAN:
        raise InvalidParameterException(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours."
        )
    return batch


def encode(batch: Batch, into: bytearray) -> None:
    """Encode the content of a frame, before compression and encryption, into `into`, replacing what it holds.

    A reused buffer stays in the processor's caches.
    """
    first = batch.times[0]
    _encoder.encode_into(([time - first for time in batch.times], batch.messages), into)


def deflated(content: bytes | bytearray) -> Iterator[bytes]:
    """Compress `content` part by part, so that the caller can yield to other work in between."""
    packer, whole = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS), memoryview(content)
    for begin in range(0, len(whole), PIECE):
        end = begin + PIECE
        part = packer.compress(whole[begin:end])
        # A full flush makes deflate start a new window.
        yield part + packer.flush(zlib.Z_FULL_FLUSH if end < len(whole) else zlib.Z_FINISH)


def decode(frame: Frame, packed: bytes, *, shown: bool = False) -> list[LogEvent]:
    """Return the events of a frame, in order. `packed` is authenticated output of `encode` or `deflated`."""
    content = zlib.decompress(packed, -zlib.MAX_WBITS) if frame.packing == frames.DEFLATE else packed
    offsets, messages = _decode(content)
    first, ingested_at, stream_id = frame.first_at, frame.ingested_at, frame.stream_id
    place = int.from_bytes(frame.frame_id, "big") << _INDEX_BITS
    if shown:
        return [
            LogEvent(
                ((first + offset) << _ID_BITS) | place | index,
                first + offset,
                message,
                ingested_at,
                stream_id,
                msgspec.Raw(_show(OutputLogEvent(first + offset, message, ingested_at))),
            )
            for index, (offset, message) in enumerate(zip(offsets, messages, strict=True))
        ]
    return [
        LogEvent(((first + offset) << _ID_BITS) | place | index, first + offset, message, ingested_at, stream_id)
        for index, (offset, message) in enumerate(zip(offsets, messages, strict=True))
    ]
