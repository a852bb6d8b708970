"""Segments as files: what is acknowledged is found, by every process; what is damaged costs just that."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kmsd.cloudwatch_logs.frames import WrappedKey
from kmsd.cloudwatch_logs.ports import FrameQuery, SegmentsUnavailable
from kmsd.cloudwatch_logs.segments import compaction, direct_writers, writer
from kmsd.cloudwatch_logs.segments.store import FileSegments
from kmsd.linux.aio import AioContext, Write
from tests.support.log_segments import GROUP, KEY, OTHER, found, frame
from tests.support.log_service import fail_syncs


@pytest.fixture(name="segments", params=["kernel", "thread"])
async def _segments(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FileSegments]:
    """Synced by the kernel, and where it cannot be asked."""
    if request.param == "thread":

        def refuse() -> AioContext:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(direct_writers, "kernel_sync", refuse)
    found = FileSegments(tmp_path / "logs")
    yield found
    await found.close()


async def test_what_was_appended_is_found_and_read(segments: FileSegments, tmp_path: Path) -> None:
    """By the same process and by another, before and after the segment is finished."""
    frames = [frame(time, time + 5, stream=time % 2) for time in (50, 10, 30)]
    for one in frames:
        await segments.append(GROUP, one, str(one.first_at).encode(), KEY)
    other = FileSegments(tmp_path / "logs")
    for reader in (segments, other):
        stored = await found(reader)
        assert [one.frame for one in stored] == [frames[1], frames[2], frames[0]]
        assert list(await reader.read(GROUP, stored)) == [b"10", b"30", b"50"]
        assert await reader.data_keys(GROUP, stored) == {KEY.data_key_id: KEY}
        assert await found(reader, OTHER) == []
    assert [one.frame.first_at for one in await found(segments, descending=True)] == [50, 30, 10]
    assert [one.frame.first_at for one in await found(segments, start=20, end=50)] == [30]
    assert [one.frame.first_at for one in await found(segments, start=15, end=51)] == [10, 30, 50]
    assert [one.frame.first_at for one in await found(segments, streams=frozenset((b"\x00" * 16,)))] == [10, 30, 50]
    assert await found(segments, streams=frozenset((b"\x07" * 16,))) == []
    await segments.append(GROUP, frame(20), b"20", KEY)
    assert [one.frame.first_at for one in await found(other)] == [10, 20, 30, 50]
    await segments.close()
    assert len(list((tmp_path / "logs" / GROUP.hex()).glob("*.idx"))) == 1
    assert [one.frame.first_at for one in await found(other)] == [10, 20, 30, 50]
    again = FileSegments(tmp_path / "logs")
    assert list(await again.read(GROUP, await found(again))) == [b"10", b"20", b"30", b"50"]
    summary = (await again.summaries(GROUP))[b"\x00" * 16]
    assert (summary.first_at, summary.last_at, summary.events, summary.size) == (10, 55, 8, 240)
    await other.close()
    await again.close()


async def test_the_order_holds_across_many_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascending by first_at and descending by last_at, whatever lies where; each frame once."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 500)
    segments = [FileSegments(tmp_path / "logs") for _ in range(2)]
    rng, frames = random.Random(5), []  # noqa: S311 (the same frames each time)
    for number in range(120):
        start = rng.randrange(1000)
        frames.append(frame(start, start + rng.randrange(100), stream=rng.randrange(3)))
        await segments[number % 2].append(GROUP, frames[-1], b"x" * rng.randrange(200), KEY)
    for _ in range(2):
        for wanted in (FrameQuery(), FrameQuery(300, 600), FrameQuery(streams=frozenset((b"\x01" * 16,)))):
            expected = [
                one
                for one in frames
                if one.first_at < wanted.end and one.last_at >= wanted.start
                if not wanted.streams or one.stream_id in wanted.streams
            ]
            up = [one.frame async for one in segments[0].find(GROUP, wanted)]
            assert [one.first_at for one in up] == sorted(one.first_at for one in expected)
            assert set(up) == set(expected)
            down = [
                one.frame
                async for one in segments[1].find(
                    GROUP, FrameQuery(wanted.start, wanted.end, wanted.streams, descending=True)
                )
            ]
            assert [one.last_at for one in down] == sorted((one.last_at for one in expected), reverse=True)
            assert sorted(down) == sorted(up)
        for one in segments:
            await one.close()
        segments = [FileSegments(tmp_path / "logs") for _ in range(2)]
    for one in segments:
        await one.close()


async def test_many_at_once_share_their_syncs(segments: FileSegments, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are durable when they return; there are far fewer syncs than frames."""
    count = 0
    put, write = os.pwrite, AioContext.write

    def counted_put(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        return put(descriptor, data, offset)

    def counted_write(kernel: AioContext, what: Write, then: Callable[[OSError | None], None]) -> None:
        nonlocal count
        count += 1
        write(kernel, what, then)

    monkeypatch.setattr(os, "pwrite", counted_put)
    monkeypatch.setattr(AioContext, "write", counted_write)
    await asyncio.gather(*(segments.append(GROUP, frame(time), b"x" * 100, KEY) for time in range(200)))
    assert len(await found(segments)) == 200
    assert 0 < count < 20


def _memory_in_use() -> int:
    gc.collect()  # what waits for the next collection is not in use
    return tracemalloc.get_traced_memory()[0]


async def test_frames_cost_no_memory(segments: FileSegments, tmp_path: Path) -> None:
    """Neither the process that writes them nor one that asks for summaries grows with what a segment holds."""
    other = FileSegments(tmp_path / "logs")

    async def more(count: int) -> None:
        for start in range(0, count, 200):
            key = KEY._replace(data_key_id=os.urandom(16))
            frames = [frame(start + number, key=key) for number in range(200)]
            await asyncio.gather(*(segments.append(GROUP, one, b"x", key) for one in frames))
            await other.summaries(GROUP)

    await more(1000)
    tracemalloc.start()
    try:
        await more(1000)
        before = _memory_in_use()
        await more(4000)
        after = _memory_in_use()
    finally:
        tracemalloc.stop()
    assert after - before < 4000 * 100  # each of them would take 400 bytes
    assert len(await found(other)) == 6000
    assert sum(one.events for one in (await other.summaries(GROUP)).values()) == 12_000
    await segments.append(GROUP, frame(7), b"x", KEY)
    assert len(await found(other)) == 6001
    await other.close()


async def test_data_keys_of_finished_segments_cost_no_memory(segments: FileSegments, tmp_path: Path) -> None:
    """There is one for each ten seconds, for as long as events are kept; they are read when they are needed."""
    keys = [KEY._replace(data_key_id=os.urandom(16), blob=os.urandom(100)) for _ in range(1000)]
    await asyncio.gather(*(segments.append(GROUP, frame(7, key=key), b"x", key) for key in keys))
    await segments.close()
    other = FileSegments(tmp_path / "logs")
    tracemalloc.start()
    try:
        await other.summaries(GROUP)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 100_000  # each of them would take 400 bytes
    assert set((await other.data_keys(GROUP, await found(other))).values()) == set(keys)
    await other.close()


async def test_leftovers_of_the_living_are_left_alone(segments: FileSegments, tmp_path: Path) -> None:
    """A segment that another process writes to is not finished for it."""
    await segments.append(GROUP, frame(1), b"x", KEY)
    other = FileSegments(tmp_path / "logs")
    await other.maintain(0)
    assert list((tmp_path / "logs" / GROUP.hex()).glob("*.idx")) == []
    await segments.append(GROUP, frame(2), b"y", KEY)
    assert [one.frame.first_at for one in await found(other)] == [1, 2]
    await other.close()


async def test_a_failed_sync_acknowledges_nothing_and_leaves_nothing(
    segments: FileSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame is in no segment; the next one goes into a new segment and works."""
    await segments.append(GROUP, frame(1), b"1", KEY)

    with monkeypatch.context() as patched:
        fail_syncs(patched, OSError(5, "Input/output error"))
        with pytest.raises(SegmentsUnavailable):
            await segments.append(GROUP, frame(2), b"2", KEY)
    assert [one.frame.first_at for one in await found(segments)] == [1]
    await segments.append(GROUP, frame(3), b"3", KEY)
    await segments.maintain(0)
    assert [one.frame.first_at for one in await found(segments)] == [1, 3]
    assert list(await segments.read(GROUP, await found(segments))) == [b"1", b"3"]


async def test_dropping_by_age_and_by_stream(
    segments: FileSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old segments go, young ones stay; a dead stream's frames are left out of what is written anew."""
    day = compaction.MAX_EXPIRED_AGE_MS
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1)
    await segments.append(GROUP, frame(day), b"old", KEY)
    another = WrappedKey(b"a" * 16, "", "arn", b"blob")
    await segments.append(GROUP, frame(5 * day, stream=1), b"dead", another)
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 10_000)
    await segments.append(GROUP, frame(5 * day, stream=2), b"alive", KEY)
    await segments.append(GROUP, frame(6 * day, stream=2), b"young", KEY)
    reader = FileSegments(tmp_path / "logs")
    assert len(await found(reader)) == 4
    assert (await segments.apply_retention(GROUP, before=2 * day, dead_streams=frozenset())).segments == 1
    assert [one.frame.first_at for one in await found(reader)] == [5 * day, 5 * day, 6 * day]
    dead = frozenset((b"\x01" * 16,))
    assert (await segments.apply_retention(GROUP, before=0, dead_streams=dead)).rewritten == 0  # still being written to
    await segments.close()
    keeper = FileSegments(tmp_path / "logs")
    before = await found(reader)
    assert (await keeper.apply_retention(GROUP, before=0, dead_streams=dead)).rewritten == 1
    assert [(await reader.read(GROUP, [one]))[0] for one in await found(reader)] == [b"alive", b"young"]
    assert await reader.data_keys(GROUP, await found(reader)) == {KEY.data_key_id: KEY}
    with pytest.raises(SegmentsUnavailable):
        await reader.read(GROUP, before)
    (path,) = (tmp_path / "logs" / GROUP.hex()).glob("*.seg")
    assert b"dead" not in path.read_bytes()
    assert another.blob not in path.read_bytes()
    assert (await keeper.apply_retention(GROUP, before=5 * day + 1, dead_streams=dead)).rewritten == 1
    assert [one.frame.first_at for one in await found(reader)] == [6 * day]
    await keeper.delete_group(GROUP)
    assert await found(reader) == []
    assert not path.parent.exists()
    for one in (keeper, reader):
        await one.close()


async def test_an_interrupted_replacement_is_harmless(segments: FileSegments, tmp_path: Path) -> None:
    """Killed after each step of writing a segment anew: each frame is there, once."""
    for time in range(4):
        await segments.append(GROUP, frame(time, stream=time % 2), b"%d" % time, KEY)
    await segments.close()
    folder = tmp_path / "logs" / GROUP.hex()
    (name,) = [path.name for path in folder.glob("*.seg")]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    keeper = FileSegments(tmp_path / "logs")
    await keeper.apply_retention(GROUP, before=0, dead_streams=frozenset((b"\x01" * 16,)))
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    new_index = next(other for other in after if other.endswith(".idx"))
    for present, expected in (
        ({**before, name.replace("-0", "-1").replace(".seg", ".staged"): b"half"}, [0, 1, 2, 3]),
        ({**before, new_index: after[new_index]}, [0, 1, 2, 3]),
        ({**before, **after}, [0, 2]),
        ({**after, name.replace(".seg", ".idx"): before[name.replace(".seg", ".idx")]}, [0, 2]),
    ):
        for path in folder.iterdir():
            path.unlink()
        for other, content in present.items():
            (folder / other).write_bytes(content)
        again = FileSegments(tmp_path / "logs")
        assert [one.frame.first_at for one in await found(again)] == expected
        await again.close()
    await keeper.close()


async def test_few_segments_are_open_at_once(
    segments: FileSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more groups than that, the least used is finished."""
    monkeypatch.setattr("kmsd.cloudwatch_logs.segments.store.MAX_WRITERS", 3)
    groups = [bytes([number]) * 16 for number in range(8)]
    for _ in range(2):
        for group in groups:
            await segments.append(group, frame(1), b"x", KEY)
    assert len(segments._writers) == 3
    assert [len(await found(segments, group)) for group in groups] == [2] * 8
    open_files = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]  # noqa: ASYNC240 (no disk there)
    assert sum(name.startswith(str(tmp_path)) for name in open_files) == 3


@pytest.mark.parametrize("act", ["settle", "tidy"])
async def test_what_a_dead_process_had_not_synced_is_synced(
    segments: FileSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Before anybody relies on it: before it is counted, and before an index says that it is there."""
    await segments.append(GROUP, frame(1), b"x", KEY)
    (path,) = (tmp_path / "logs" / GROUP.hex()).glob("*.seg")
    copied = path.with_name("0" * 20 + "-0.seg")  # as of a process that nobody has locked anything for
    copied.write_bytes(path.read_bytes())
    synced = []
    sync = os.fdatasync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        assert not copied.with_suffix(".idx").exists()
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", note)
    other = FileSegments(tmp_path / "logs")
    await (other.sync(GROUP) if act == "settle" else other.maintain(0))
    assert copied.stat().st_ino in synced
    assert copied.with_suffix(".idx").exists() == (act == "tidy")
    await other.close()
