"""The write-ahead file beside a trail: what a power loss takes from the trail comes back from there."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmsd.adapters.audit_trail import write_ahead_log as wal
from kmsd.adapters.audit_trail.follower import complete
from kmsd.adapters.audit_trail.format import Head, digest_of, split
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.adapters.audit_trail.writer import TrailWriter, WriterSettings
from tests.support.audit_trail import own_lines, record, trail_lines, trail_records

SIZE = 256 * 1024
WRITER = "worker-0"


@pytest.fixture(name="left", scope="module")
def _left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a process leaves it whom nobody asked to end, after 30 records in batches of one, two and three."""
    folder, copy = tmp_path_factory.mktemp("audit"), tmp_path_factory.mktemp("left") / "audit"

    async def write() -> None:
        sink = await TrailSink.open(folder, WRITER, None, SinkSettings(ahead_bytes=SIZE))
        await sink.append(record(0))
        number = 1
        while number < 30:
            batch = range(number, min(30, number + 1 + number % 3))
            await asyncio.gather(*(sink.append(record(one)) for one in batch))
            number = batch.stop
        shutil.copytree(folder, copy)
        await sink.close()

    asyncio.run(write())
    assert not wal.path_of(folder, WRITER).exists()
    return copy


def blocks_of(folder: Path) -> list[wal.Block]:
    """What the file beside the trail holds."""
    return list(wal._blocks(wal.path_of(folder, WRITER).read_bytes(), WRITER))


def trail_of(folder: Path) -> Path:
    """Its only file."""
    (path,) = folder.glob("*.trail")
    return path


def opened(folder: Path) -> TrailWriter:
    """The next process takes the chain."""
    writer = TrailWriter(folder, WRITER, WriterSettings(), lambda: datetime.now(UTC))
    writer.open()
    return writer


def assert_chain(folder: Path, count: int) -> None:
    """Whole lines, each fitting the one before, and every record once."""
    head = Head()
    for line in trail_lines(folder):
        printed, text = split(line)
        assert (printed.sequence, printed.digest) == (head.sequence + 1, digest_of(head.digest, text))
        head = printed
    assert [found["requestID"] for found in trail_records(folder)] == [f"r{number}" for number in range(count)]


def test_most_batches_are_in_the_file(left: Path) -> None:
    """All but the first, which began the trail's file."""
    blocks = blocks_of(left)
    assert len(blocks) >= 10
    assert blocks[-1].end == trail_of(left).stat().st_size


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_power_loss_takes_nothing(left: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever of the trail's unsynced part is missing, or was allocated and never written."""
    folder = tmp_path_factory.mktemp("loss") / "audit"
    shutil.copytree(left, folder)
    trail, begin = trail_of(folder), blocks_of(folder)[0].offset
    whole = trail.read_bytes()
    cut = data.draw(st.integers(begin, len(whole)), label="cut")
    zeros = data.draw(st.integers(0, len(whole) - cut), label="zeros")
    trail.write_bytes(whole[:cut] + bytes(zeros))
    writer = opened(folder)
    assert trail.read_bytes() == whole
    assert not wal.path_of(folder, WRITER).exists()
    writer.append([record(30)])
    writer.close()
    assert_chain(folder, 31)
    (_, start) = own_lines(folder, "start")
    assert "damaged" not in start


@given(at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_block_is_not_believed(
    left: Path, tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    """What comes before it still is; nothing that was never in the trail gets into it."""
    folder = tmp_path_factory.mktemp("bent") / "audit"
    shutil.copytree(left, folder)
    trail, beside = trail_of(folder), wal.path_of(folder, WRITER)
    whole, blocks, data = trail.read_bytes(), blocks_of(folder), bytearray(beside.read_bytes())
    data[at] ^= 1 << bit
    beside.write_bytes(data)
    trail.write_bytes(whole[: blocks[0].offset])
    opened(folder).close()
    found = trail.read_bytes()
    assert whole.startswith(found)
    assert len(found) >= min([blocks[0].offset, *(block.end for block in blocks[: at // wal.BLOCK_SIZE])], default=0)


def test_what_is_there_is_left_as_it_is(left: Path, tmp_path: Path) -> None:
    """A process that was killed has lost nothing; records that it wrote and nobody was told of stay behind the rest."""
    folder = tmp_path / "audit"
    shutil.copytree(left, folder)
    whole = trail_of(folder).read_bytes()
    opened(folder).close()
    assert trail_of(folder).read_bytes() == whole


@pytest.mark.parametrize("change", ["shorter", "other", "gone", "not ours"])
def test_a_trail_that_is_another_is_left_alone(left: Path, tmp_path: Path, change: str) -> None:
    """An older state that was put back, a changed line before, a file archived, a file of another writer."""
    folder = tmp_path / "audit"
    shutil.copytree(left, folder)
    trail, beside = trail_of(folder), wal.path_of(folder, WRITER)
    whole, begin = trail.read_bytes(), blocks_of(folder)[0].offset
    match change:
        case "shorter":
            trail.write_bytes(whole[: begin - 1])
        case "other":
            trail.write_bytes(whole[: begin - 1] + b"\t")
        case "gone":
            trail.unlink()
        case _:
            beside.write_bytes(beside.read_bytes().replace(b" worker-0.", b" worker-1."))
    before = trail.read_bytes() if trail.exists() else None
    wal.replay(folder, WRITER)
    assert (trail.read_bytes() if trail.exists() else None) == before
    assert not beside.exists()


def test_chains_that_nobody_opens_are_completed_too(left: Path, tmp_path: Path) -> None:
    """Of a worker that a smaller configuration does not start again; one that is in use is left alone."""
    folder = tmp_path / "audit"
    shutil.copytree(left, folder)
    whole, begin = trail_of(folder).read_bytes(), blocks_of(folder)[0].offset
    trail_of(folder).write_bytes(whole[:begin])
    complete(folder)
    assert trail_of(folder).read_bytes() == whole
    complete(tmp_path / "nothing")


async def test_a_full_file_is_begun_again_and_old_blocks_are_not_repeated(tmp_path: Path) -> None:
    """At any moment what is beside the trail completes it from its last sync on."""
    sink = await TrailSink.open(tmp_path, WRITER, None, SinkSettings(ahead_bytes=4 * wal.BLOCK_SIZE))
    counts = set()
    for number in range(23):
        await sink.append(record(number, padding="x" * (number * 300)))
        blocks = blocks_of(tmp_path)
        if number > 0:
            counts.add(len(blocks))
            assert blocks[-1].end <= trail_of(tmp_path).stat().st_size
            whole = trail_of(tmp_path).read_bytes()
            assert all(whole[block.offset : block.end] == block.lines for block in blocks)
    assert {1, 2} <= counts
    await sink.append(record(23, padding="x" * 40_000))
    await sink.close()
    assert_chain(tmp_path, 24)


async def test_another_file_is_begun_with_the_last_one_synced(tmp_path: Path) -> None:
    """Blocks of a trail's file that is complete are not needed any more."""
    sink = await TrailSink.open(tmp_path, WRITER, None, SinkSettings(file_bytes=3000, ahead_bytes=SIZE))
    for number in range(40):
        await sink.append(record(number))
        names = {block.file for block in blocks_of(tmp_path)}
        assert len(names) <= 1
    await sink.close()
    assert len(own_lines(tmp_path, "open")) >= 3
    assert_chain(tmp_path, 40)
