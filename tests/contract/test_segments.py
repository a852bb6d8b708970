"""The port `Segments`: what is acknowledged is found, by every process, in order; what has expired is removed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kmsd.cloudwatch_logs.frames import MAX_SPAN, WrappedKey
from kmsd.cloudwatch_logs.ports import FrameQuery, SegmentDamaged
from tests.contract.segment_stores import SEGMENTS, Pair
from tests.support.log_segments import GROUP, KEY, OTHER, found, frame

DAY = MAX_SPAN


@pytest.fixture(name="pair", params=SEGMENTS)
async def _pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """The same segments, open in two processes."""
    async with SEGMENTS[request.param](tmp_path) as opened:
        yield opened


async def test_what_was_appended_is_found_and_read(pair: Pair) -> None:
    """By the process that appended it and by another, at once; with its data key."""
    here, there = pair
    another = WrappedKey(b"a" * 16, "", "arn:aws:logs:g", b"blob")
    frames = [frame(50, 55), frame(10, 15, stream=1, key=another), frame(30, 35)]
    for one, key in zip(frames, (KEY, another, KEY), strict=True):
        await here.append(GROUP, one, str(one.first_at).encode(), key)
    for reader in (here, there):
        stored = await found(reader)
        assert [one.frame for one in stored] == [frames[1], frames[2], frames[0]]
        assert list(await reader.read(GROUP, stored)) == [b"10", b"30", b"50"]
        assert list(await reader.read(GROUP, stored[::-1])) == [b"50", b"30", b"10"]
        assert await reader.data_keys(GROUP, stored) == {KEY.data_key_id: KEY, another.data_key_id: another}
        assert await found(reader, OTHER) == []
        assert [one.frame.first_at for one in await found(reader, descending=True)] == [50, 30, 10]
        assert [one.frame.first_at for one in await found(reader, start=20, end=50)] == [30]
        assert [one.frame.first_at for one in await found(reader, start=15, end=51)] == [10, 30, 50]
        assert [one.frame.first_at for one in await found(reader, streams=frozenset((b"\x00" * 16,)))] == [30, 50]
        assert await found(reader, streams=frozenset((b"\x07" * 16,))) == []
    await there.append(GROUP, frame(20), b"20", KEY)
    assert [one.frame.first_at for one in await found(here)] == [10, 20, 30, 50]


async def test_the_longest_frame_is_found_from_each_of_its_ends(pair: Pair) -> None:
    """One that spans a day, by a search that meets only its first or its last millisecond."""
    here, there = pair
    await here.append(GROUP, frame(2 * DAY, 3 * DAY), b"x", KEY)
    for descending in (False, True):
        for start, end, count in (
            (2 * DAY, 2 * DAY + 1, 1),
            (3 * DAY, 3 * DAY + 1, 1),
            (2 * DAY - 1, 2 * DAY, 0),
            (3 * DAY + 1, 3 * DAY + 2, 0),
        ):
            assert len(await found(there, start=start, end=end, descending=descending)) == count


async def test_the_order_holds_across_pages_and_segments(pair: Pair) -> None:
    """Ascending by first_at and descending by last_at, whatever lies where; each frame once, also those of one time."""
    rng, frames = random.Random(5), []  # noqa: S311 (the same frames each time)
    for number in range(150):
        start = rng.randrange(200)
        frames.append(frame(start, start + rng.randrange(50), stream=rng.randrange(3)))
        expires_at = DAY * rng.randrange(4)
        await pair[number % 2].append(GROUP, frames[-1], b"x" * rng.randrange(200), KEY, expires_at=expires_at)
    some = frozenset((b"\x01" * 16, b"\x02" * 16))
    for wanted in (FrameQuery(), FrameQuery(60, 120), FrameQuery(streams=some), FrameQuery(20, 180, some)):
        expected = [
            one
            for one in frames
            if one.first_at < wanted.end and one.last_at >= wanted.start
            if not wanted.streams or one.stream_id in wanted.streams
        ]
        up = [one.frame async for one in pair[0].find(GROUP, wanted)]
        assert [one.first_at for one in up] == sorted(one.first_at for one in expected)
        assert sorted(up) == sorted(expected)
        backwards = FrameQuery(wanted.start, wanted.end, wanted.streams, descending=True)
        down = [one.frame async for one in pair[1].find(GROUP, backwards)]
        assert [one.last_at for one in down] == sorted((one.last_at for one in expected), reverse=True)
        assert sorted(down) == sorted(expected)


async def test_many_at_once_into_one_stream(pair: Pair) -> None:
    """From two processes: each frame once, and the summary has them all."""
    each = [pair[number % 2].append(GROUP, frame(number), b"%d" % number, KEY) for number in range(300)]
    await asyncio.gather(*each)
    for reader in pair:
        stored = await found(reader)
        assert [one.frame.first_at for one in stored] == list(range(300))
        assert list(await reader.read(GROUP, stored)) == [b"%d" % number for number in range(300)]
        (summary,) = (await reader.summaries(GROUP)).values()
        assert (summary.first_at, summary.last_at, summary.events, summary.size) == (0, 299, 600, 18_000)
        assert summary.ingested_at == 1_000_000


async def test_summaries(pair: Pair) -> None:
    """Of each stream of the group that has events."""
    here, there = pair
    assert await there.summaries(GROUP) == {}
    await here.append(GROUP, frame(5, 9, stream=1), b"x", KEY)
    await there.append(GROUP, frame(7, 11, stream=1, at=2_000_000), b"x", KEY, expires_at=DAY)
    await here.append(GROUP, frame(1, stream=2), b"x", KEY)
    await here.append(OTHER, frame(1, stream=1), b"x", KEY)
    for reader in pair:
        summaries = await reader.summaries(GROUP)
        assert summaries.keys() == {b"\x01" * 16, b"\x02" * 16}
        assert tuple(summaries[b"\x01" * 16]) == (5, 11, 2_000_000, 4, 120)


async def test_a_deleted_group_is_gone(pair: Pair) -> None:
    """In all processes; other groups stay, and a missing group is no error."""
    here, there = pair
    for group in (GROUP, OTHER):
        await here.append(group, frame(1), b"x", KEY, expires_at=DAY)
        await there.append(group, frame(2), b"y", KEY)
    await here.delete_group(GROUP)
    await here.delete_group(GROUP)
    for reader in pair:
        assert await found(reader) == []
        assert await reader.summaries(GROUP) == {}
        assert [one.frame.first_at for one in await found(reader, OTHER)] == [1, 2]


async def test_what_has_expired_and_what_is_dead_is_removed(pair: Pair) -> None:
    """A day after it has expired at the latest; the rest stays, and so do the summaries of the rest."""
    here, there = pair
    await here.append(GROUP, frame(1 * DAY, 2 * DAY - 1), b"old", KEY)
    await here.append(GROUP, frame(5 * DAY, stream=1), b"dead", KEY)
    await here.append(GROUP, frame(5 * DAY, stream=2), b"young", KEY, expires_at=9 * DAY)
    await here.append(OTHER, frame(1 * DAY), b"another's", KEY)
    await here.close()
    dead = frozenset((b"\x01" * 16,))
    await there.apply_retention(GROUP, before=3 * DAY, dead_streams=dead)
    stored = await found(there)
    assert list(await there.read(GROUP, stored)) == [b"young"]
    summaries = await there.summaries(GROUP)
    assert {stream: one.events for stream, one in summaries.items()} == {b"\x02" * 16: 2}
    assert len(await found(there, OTHER)) == 1
    await there.apply_retention(GROUP, before=3 * DAY, dead_streams=dead)
    assert len(await found(there)) == 1


async def test_results_are_kept_by_id(pair: Pair) -> None:
    """In all processes, and not found once they are deleted."""
    here, there = pair
    await here.put_result("q", b"content")
    assert await there.get_result("q") == b"content"
    await there.delete_result("q")
    await there.delete_result("q")
    with pytest.raises(SegmentDamaged):
        await here.get_result("q")


async def test_it_is_ready(pair: Pair) -> None:
    """Segments that can be written to say so; what was found can be made durable."""
    for one in pair:
        await one.check()
        await one.sync(GROUP)
        await one.maintain(0)
        await one.drop_expired(0)
