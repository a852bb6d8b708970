"""Readers beside a writer: they see what was acknowledged, in front of what is only coming, and pass over damage."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from pathlib import Path

import pytest

from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from kmsd.cloudwatch_logs.segments import compaction, files, index_buffer, windowed_file
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments.format import Contents
from kmsd.cloudwatch_logs.segments.store import FileSegments
from kmsd.cloudwatch_logs.segments.windowed_file import WindowedFile
from tests.support.log_segments import GROUP, KEY, found, frame


async def test_readers_never_miss_what_was_acknowledged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Looked at all the time, a segment shows all that was acknowledged before the look, and no damage."""
    ours, theirs = FileSegments(tmp_path / "logs"), FileSegments(tmp_path / "logs")
    acknowledged, over, looks = 0, False, 0

    async def write(start: int) -> None:
        nonlocal acknowledged
        for number in range(60):
            await ours.append(GROUP, frame(start + number), os.urandom(1 + (number * 7919) % 150_000), KEY)
            acknowledged += 1

    def look() -> None:
        nonlocal looks
        while not over:
            known = acknowledged
            assert len(asyncio.run(found(theirs))) >= known
            looks += 1

    looking = asyncio.create_task(asyncio.to_thread(look))
    await asyncio.gather(*(write(start * 1000) for start in range(8)))
    over = True
    await looking
    assert looks > 20
    assert len(await found(theirs)) == 480
    assert list(await theirs.read(GROUP, (await found(theirs))[:3]))
    await ours.close()
    await theirs.close()
    assert "damaged" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("alive", [True, False])
async def test_a_gap_is_what_is_coming_while_its_writer_lives(tmp_path: Path, *, alive: bool) -> None:
    """Of one write the disk may show the second frame before the first."""
    segments = FileSegments(tmp_path / "logs")
    for number in range(3):
        await segments.append(GROUP, frame(number), b"x" * 5000, KEY)
    (stored, *_) = [one for one in await found(segments) if one.frame.first_at == 1]
    path = next((tmp_path / "logs").rglob("*.seg"))
    whole = path.read_bytes()
    await segments.close()
    begin = stored.offset - fmt.FRAME_BODY
    copied = tmp_path / "copied.seg"
    copied.write_bytes(whole[:begin] + bytes(4000) + whole[begin + 4000 :])
    with copied.open("rb") as file:
        if alive:
            fcntl.flock(file, fcntl.LOCK_EX)
        contents = Contents()
        files.scan_file(copied, contents, GROUP, growing=True)
        assert [one.frame.first_at for one in contents.frames] == ([0] if alive else [0, 2])
        assert bool(contents.damaged) == (not alive)
        copied.write_bytes(whole)
        files.scan_file(copied, contents, GROUP, growing=True)
    assert [one.frame.first_at for one in contents.frames] == ([0, 1, 2] if alive else [0, 2])


@pytest.mark.parametrize("size", [0, 10, 4096, 70_000])
async def test_a_segment_that_holds_nothing_yet(tmp_path: Path, size: int) -> None:
    """Made a moment ago, or when its writer died: neither damaged nor anything to read."""
    path = tmp_path / "logs" / GROUP.hex() / f"{'0' * 20}-0.seg"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    segments = FileSegments(tmp_path / "logs")
    assert await found(segments) == []
    compaction.finish_leftovers(tmp_path / "logs")
    assert await found(segments) == []
    assert path.with_suffix(".idx").exists()
    await segments.close()


@pytest.mark.parametrize("most", [index_buffer.MAX_BYTES, 0])
async def test_an_index_tells_the_same_whether_it_was_remembered_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """All frames and data keys, and where they lie: as a scan of the segment finds them."""
    monkeypatch.setattr(index_buffer, "MAX_BYTES", most)
    segments = FileSegments(tmp_path / "logs")
    for number in range(30):
        key = KEY._replace(data_key_id=bytes([number % 4]) * 16)
        await asyncio.gather(*(segments.append(GROUP, frame(number * 3 + at, key=key), b"x", key) for at in range(3)))
    await segments.close()
    path = next((tmp_path / "logs").rglob("*.seg"))
    scanned = Contents()
    files.scan_file(path, scanned, GROUP)
    assert len(scanned.frames) == 90
    assert files.read_index(path.parent, path.stem, GROUP) == scanned


async def test_damage_of_a_moment_ago_is_told_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no write explains any more is damage, also while the writer lives."""
    segments = FileSegments(tmp_path / "logs")
    for number in range(3):
        await segments.append(GROUP, frame(number), b"x" * 5000, KEY)
    path = next((tmp_path / "logs").rglob("*.seg"))
    (stored, *_) = [one for one in await found(segments) if one.frame.first_at == 1]
    with path.open("r+b") as file:
        file.seek(stored.offset - 10)
        file.write(bytes(10))
    other = FileSegments(tmp_path / "logs")
    assert [one.frame.first_at for one in await found(other)] == [0]
    monkeypatch.setattr(files, "MAX_WRITE_SECONDS", 0.0)
    assert [one.frame.first_at for one in await found(other)] == [0, 2]
    await other.close()
    await segments.close()


async def test_a_disk_that_cannot_be_read_is_an_error_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk does not give now is asked for again; the process lives."""
    segments, other = FileSegments(tmp_path / "logs"), FileSegments(tmp_path / "logs")
    await segments.append(GROUP, frame(1), b"x" * 5000, KEY)

    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        with pytest.raises(SegmentsUnavailable, match="Input/output error"):
            await found(other)
    assert [one.frame.first_at for one in await found(other)] == [1]
    await other.close()
    await segments.close()


def test_a_view_finds_across_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and searches give what the whole file would, whatever lies on the seams, and stop at its end."""
    monkeypatch.setattr(windowed_file, "WINDOW", 16)
    monkeypatch.setattr(windowed_file, "CHUNK", 10)
    data = os.urandom(300).replace(b"\xee", b"\xef")
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        for at in range(297):
            whole = data[:at] + b"\xee\xee\xee" + data[at + 3 :]
            os.pwrite(file.fileno(), whole, 0)
            found_in = WindowedFile(file.fileno())
            assert found_in.find(b"\xee\xee\xee", 0, 300) == at
            assert found_in.find(b"\xee\xee\xee", 0, at + 2) == -1
            assert found_in.find(b"\xee\xee\xee", at + 1, 300) == -1
            assert found_in.find(b"\xee\xee\xee", at, 400) == at
            for begin, end in ((at, at + 3), (0, 5), (at, 290), (290, 310), (400, 410)):
                assert found_in.part(begin, max(begin, end)) == whole[begin : max(begin, end)]
