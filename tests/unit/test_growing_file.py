"""Files that grow past the page cache hold what was appended, and zeros to the end of a block."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kmsd.cloudwatch_logs.segments import direct_append_file
from kmsd.cloudwatch_logs.segments.direct_append_file import DirectAppendFile
from kmsd.cloudwatch_logs.segments.direct_writers import DirectWriterPool
from kmsd.linux.aio import BLOCK_SIZE, round_up

SIZES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 40), st.integers(BLOCK_SIZE - 30, BLOCK_SIZE + 30), st.integers(0, 90_000)),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.fixture(name="writers")
async def _lanes() -> AsyncIterator[DirectWriterPool]:
    writers = DirectWriterPool()
    yield writers
    writers.close()


async def by_kernel(writers: DirectWriterPool, file: DirectAppendFile, part: bytes) -> None:
    """Append while the loop goes on."""
    writer = writers.acquire()
    assert writer is not None
    assert file.room(len(part)) <= round_up(BLOCK_SIZE + len(part))
    await writers.write(writer, file.stage([part[:7], part[7:]], writer.buffer))
    file.sync(len(part), writer.buffer)
    writers.release(writer)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES)
@example([(4066, False), (4122, False), (0, False)])  # nothing is appended where a block ends
@example([(4066, False), (4122, False), (0, True)])
def test_all_that_was_appended_is_there(tmp_path: Path, sizes: list[tuple[int, bool]]) -> None:
    """Whatever lengths were appended by the kernel and by the thread in turn; cut, the file holds nothing else."""
    path = tmp_path / os.urandom(8).hex()

    async def go() -> None:
        writers, file, expected = DirectWriterPool(), DirectAppendFile(path, b"head"), b"head"
        for size, kernel in sizes:
            part = bytes(byte or 1 for byte in os.urandom(size))
            if kernel:
                await by_kernel(writers, file, part)
            else:
                file.append([part])
            expected += part
            found = path.read_bytes()
            assert found == expected.ljust(round_up(len(expected)), b"\0")
            assert file.end == len(expected)
        file.cut()
        assert path.read_bytes() == expected
        # What had been reserved is given back; the file system may need a block for its own tables.
        assert path.stat().st_blocks * 512 <= round_up(len(expected)) + BLOCK_SIZE
        file.append([b"and on"])
        assert path.read_bytes().rstrip(b"\0") == expected + b"and on"
        file.close()
        writers.close()

    asyncio.run(go())


async def test_what_was_not_written_is_cut_off(writers: DirectWriterPool, tmp_path: Path) -> None:
    """A write that was staged and came to nothing leaves what was durable before."""
    file = DirectAppendFile(tmp_path / "file", b"head")
    await by_kernel(writers, file, b"a" * 5000)
    writer = writers.acquire()
    assert writer is not None
    file.stage([b"b" * 9000], writer.buffer)
    assert (tmp_path / "file").stat().st_size == round_up(14_004)
    file.cut()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"head" + b"a" * 5000


def refusing(name: str, refused: Callable[..., bool], code: int, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    """Let a call fail where `refused` says so."""
    real = getattr(where, name)

    def call(*arguments: Any) -> Any:
        if refused(*arguments):
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(where, name, call)


@pytest.mark.parametrize("at", ["open", "first write"])
def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Refused when the file is opened, or at the first write: the page cache is synced instead."""
    if at == "open":
        refusing("open", lambda _path, flags, *_: bool(flags & os.O_DIRECT), errno.EINVAL, monkeypatch, os)
    else:
        direct = {True}
        refusing("pwrite", lambda *_: bool(direct) and direct.pop(), errno.EINVAL, monkeypatch, os)
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(real(descriptor)))
    file = DirectAppendFile(tmp_path / "file", b"head")
    assert not file.is_direct
    file.append([b"a" * 5000])
    assert len(synced) == 2
    file.cut()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"head" + b"a" * 5000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_room_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """On a disk that is nearly full no more is reserved than is needed; where nothing can be, it goes without."""
    kept = []
    real = direct_append_file.reserve

    def nearly_full(descriptor: int, offset: int, length: int) -> None:
        if length > 8 * BLOCK_SIZE or code == errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))
        kept.append(length)
        real(descriptor, offset, length)

    monkeypatch.setattr(direct_append_file, "reserve", nearly_full)
    file = DirectAppendFile(tmp_path / "file", b"head")
    file.append([b"a" * 5000])
    if code == errno.ENOSPC:
        with pytest.raises(OSError, match="No space left"):
            file.append([b"b" * 50_000])
        file.cut()
        assert kept == [BLOCK_SIZE, BLOCK_SIZE]
    file.close()
    assert (tmp_path / "file").read_bytes().rstrip(b"\0") == b"head" + b"a" * 5000
