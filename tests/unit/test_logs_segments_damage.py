"""What a torn end, a damaged spot or a damaged index of a log segment costs: just that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kmsd.cloudwatch_logs.ports import SegmentDamaged
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments import writer
from kmsd.cloudwatch_logs.segments.store import FileSegments
from tests.support.log_segments import GROUP, KEY, found, frame


async def test_a_torn_end_is_left_out_and_the_rest_is_there(tmp_path: Path) -> None:
    """As after kill -9 or loss of power, at every length that the last record can have been cut to."""
    segments = FileSegments(tmp_path / "logs")
    for time in (1, 2):
        await segments.append(GROUP, frame(time), b"sealed %d" % time, KEY)
    (path,) = (tmp_path / "logs" / GROUP.hex()).glob("*.seg")
    whole = path.read_bytes().rstrip(b"\0")
    await segments.append(GROUP, frame(3), os.urandom(2000), KEY)
    torn = path.read_bytes().rstrip(b"\0")
    await segments.close()
    for index in path.parent.glob("*.idx"):
        index.unlink()
    lengths = [
        *range(len(whole), len(whole) + 120),
        *range(len(whole) + 120, len(torn), 97),
        *range(len(torn) - 20, len(torn)),
    ]
    sectors = [bytearray(torn) for _ in range(len(whole) // 512 + 1, len(torn) // 512 + 1)]
    for number, one in enumerate(sectors, len(whole) // 512 + 1):
        one[number * 512 : (number + 1) * 512] = bytes(len(one[number * 512 : (number + 1) * 512]))
    for content in (
        *(torn[:length] + more for length in lengths for more in (b"", b"\x00" * 50)),
        *map(bytes, sectors),
    ):
        path.write_bytes(content)
        again = FileSegments(tmp_path / "logs")
        assert [one.frame.first_at for one in await found(again)] == [1, 2]
        await again.close()
    again = FileSegments(tmp_path / "logs")
    await again.maintain(0)
    assert len(list(path.parent.glob("*.idx"))) == 1
    await again.append(GROUP, frame(4), b"sealed 4", KEY)
    assert [one.frame.first_at for one in await found(again)] == [1, 2, 4]
    assert list(await again.read(GROUP, await found(again))) == [b"sealed 1", b"sealed 2", b"sealed 4"]
    await again.close()


async def test_damage_costs_the_records_it_hits(tmp_path: Path) -> None:
    """A spot in the middle: what follows is found again; with an index not even that is lost from sight."""
    segments = FileSegments(tmp_path / "logs")
    for time in range(5):
        await segments.append(GROUP, frame(time), b"sealed %d" % time, KEY)
    stored = await found(segments)
    await segments.close()
    (path,) = (tmp_path / "logs" / GROUP.hex()).glob("*.seg")
    (index,) = path.parent.glob("*.idx")
    data = bytearray(path.read_bytes())
    data[stored[2].offset - 20] ^= 1  # in the head of the third frame
    path.write_bytes(data)
    again = FileSegments(tmp_path / "logs")
    assert [one.frame.first_at for one in await found(again)] == [0, 1, 2, 3, 4]
    await again.close()
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    again = FileSegments(tmp_path / "logs")
    with pytest.raises(SegmentDamaged):
        await found(again)
    await again.close()
    index.unlink()
    again = FileSegments(tmp_path / "logs")
    assert [one.frame.first_at for one in await found(again)] == [0, 1, 3, 4]
    await again.maintain(0)
    assert [one.frame.first_at for one in await found(again)] == [0, 1, 3, 4]
    await again.close()


async def test_other_segments_are_not_concerned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three is not a segment at all any more."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1)
    segments = FileSegments(tmp_path / "logs")
    for time in range(3):
        await segments.append(GROUP, frame(time), b"sealed %d" % time, KEY)
    await segments.close()
    paths = sorted((tmp_path / "logs" / GROUP.hex()).glob("*.seg"))
    paths[1].write_bytes(b"")
    again = FileSegments(tmp_path / "logs")
    stored = await found(again)
    assert list(await again.read(GROUP, [stored[0], stored[2]])) == [b"sealed 0", b"sealed 2"]
    with pytest.raises(SegmentDamaged) as damaged:
        await again.read(GROUP, stored)
    assert (damaged.value.first_at, damaged.value.last_at) == (1, 1)
    await again.close()
    paths[1].with_suffix(".idx").unlink()
    again = FileSegments(tmp_path / "logs")
    assert [one.frame.first_at for one in await found(again)] == [0, 2]
    await again.close()


def test_indexes_know_their_own_damage() -> None:
    """A flipped bit is noticed, wherever it could tell a lie."""
    contents = fmt.Contents([fmt.Placed(frame(1), 100, 10)], {KEY.data_key_id: KEY}, 500)
    data = fmt.index(contents, GROUP)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0x10
        start = bytes(broken[: fmt.INDEX_START])
        try:
            summary, entries = fmt.index_lengths(start, GROUP)
            read, _ = fmt.read_summary(start, bytes(broken[fmt.INDEX_START : fmt.INDEX_START + summary]))
            frames = fmt.read_entries(start, bytes(broken[fmt.INDEX_START + summary :][:entries]))
        except fmt.NotASegment:
            continue
        assert (read.keys, read.end, frames) == (contents.keys, contents.end, contents.frames)
