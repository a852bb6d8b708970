"""Batches of events: what is compressed piece by piece is one stream, and reads back as it was."""

from __future__ import annotations

import asyncio
import os
import zlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kmsd.cloudwatch_logs import events as log_event
from kmsd.cloudwatch_logs import frame_codec, frames
from kmsd.cloudwatch_logs.events import Batch
from kmsd.cloudwatch_logs.shapes import InputLogEvent, RejectedLogEventsInfo
from kmsd.errors import InvalidParameterException

NOW = 1_795_329_000_000
HOUR = 3_600_000


@pytest.mark.parametrize("size", [1, log_event.PIECE - 1, log_event.PIECE, log_event.PIECE + 1, 1_100_000])
def test_pieces_are_one_stream(size: int) -> None:
    """Of any length; text as well as what cannot be compressed."""
    for content in ((b"some words %d " * (size // 10 + 1))[:size], os.urandom(size)):
        packed = b"".join(log_event.deflated(content))
        assert zlib.decompress(packed, -zlib.MAX_WBITS) == content


async def test_compressing_lets_others_have_their_turn() -> None:
    """A large batch yields several times; without `compress` a batch is stored as it is."""
    logs: Any = SimpleNamespace(content=bytearray())
    turns, batch, content = 0, Batch([1] * 1_000, ["a line of a log " * 64] * 1_000, 0), bytearray()
    log_event.encode(batch, content)

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    packing, packed = await frame_codec._packed(logs, batch, compress=True)
    task.cancel()
    assert packing == frames.DEFLATE
    assert zlib.decompress(packed, -zlib.MAX_WBITS) == content
    assert turns >= 4
    assert await frame_codec._packed(logs, batch, compress=False) == (frames.PLAIN, content)


def events(*offsets: int) -> list[InputLogEvent]:
    """Events at these hours from now, in their order."""
    return [InputLogEvent(NOW + hours * HOUR, f"é{hours}") for hours in offsets]


@pytest.mark.parametrize(
    ("offsets", "kept_days", "taken", "rejected"),
    [
        ((-1, 0, 1), None, (-1, 0, 1), None),
        ((-400, -337, -1, 0), None, (-1, 0), RejectedLogEventsInfo(None, 2, None)),
        ((-400, -30, -1), 1, (-1,), RejectedLogEventsInfo(None, 1, 2)),
        ((-1, 2, 3), None, (-1, 2), RejectedLogEventsInfo(2, None, None)),
        ((-400, -1, 3), None, (-1,), RejectedLogEventsInfo(2, 1, None)),
        ((-400, -399), None, (), RejectedLogEventsInfo(None, 2, None)),
        ((3, 4), None, (), RejectedLogEventsInfo(0, None, None)),
    ],
)
def test_what_is_taken_of_a_batch(
    offsets: tuple[int, ...], kept_days: int | None, taken: tuple[int, ...], rejected: RejectedLogEventsInfo | None
) -> None:
    """Too old, past retention, too new: each is left out, and said; size counts what is taken."""
    oldest = 0 if kept_days is None else NOW - kept_days * 24 * HOUR
    batch = log_event.check(events(*offsets), NOW, oldest)
    assert [(time - NOW) // HOUR for time in batch.times] == list(taken)
    assert list(batch.messages) == [f"é{hours}" for hours in taken]
    assert batch.size == sum(len(message.encode()) + 26 for message in batch.messages)
    assert batch.rejected == rejected


def test_what_refuses_a_batch() -> None:
    """Disorder, and a span of more than a day."""
    for offsets in ((0, -1), (-25, 0)):
        with pytest.raises(InvalidParameterException):
            log_event.check(events(*offsets), NOW, 0)


def test_content_reads_back() -> None:
    """By `decode`: times, messages, and a place for each."""
    batch = Batch([5, 5, 9], ["a", "é", "c"], 82)
    frame = frames.Frame(b"s" * 16, b"k" * 16, b"f" * 10, 5, 9, 11, 3, 82, frames.DEFLATE)
    content = bytearray(b"what was there before, and is longer than what comes")
    log_event.encode(batch, content)
    found = log_event.decode(frame, b"".join(log_event.deflated(content)))
    assert [(one.timestamp, one.message) for one in found] == [(5, "a"), (5, "é"), (9, "c")]
    assert sorted({one.position for one in found}) == [one.position for one in found]
    assert datetime.fromtimestamp(found[0].ingested_at / 1000, UTC).year == 1970
