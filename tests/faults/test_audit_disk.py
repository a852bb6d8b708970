"""The trail on disks that fill up, turn read-only, refuse to grow a file, or fail to sync."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail.format import Head, digest_of, split
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.ports import AuditUnavailable
from tests.support.audit_trail import own_lines, record, trail_lines, trail_records
from tests.support.file_systems import MIB, preloadable, small_disk


def remount(disk: Path, how: str) -> None:
    """`ro` or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def assert_whole(folder: Path, acknowledged: list[str]) -> None:
    """No half line, no broken link, every acknowledged record once, and no other."""
    head = Head()
    for path in sorted(folder.glob("*.trail")):
        assert path.read_bytes().endswith(b"\n")
    for line in trail_lines(folder):
        printed, text = split(line)
        assert (printed.sequence, printed.digest) == (head.sequence + 1, digest_of(head.digest, text))
        head = printed
    assert [found["requestID"] for found in trail_records(folder)] == acknowledged


async def fill(sink: TrailSink, acknowledged: list[str], *, most: int = 5000) -> AuditUnavailable:
    """Append batches until the sink refuses."""
    number = len(acknowledged)
    for _ in range(most):
        names = [f"r{number + index}" for index in range(7)]
        results = await asyncio.gather(
            *(sink.append(record(number + index, padding="x" * 900)) for index in range(7)), return_exceptions=True
        )
        failed = [found for found in results if found is not None]
        acknowledged += [name for name, found in zip(names, results, strict=True) if found is None]
        number += 7
        if failed:
            assert len(failed) == 7, "a batch is durable as a whole, or not at all"
            assert isinstance(failed[0], AuditUnavailable)
            return failed[0]
    raise AssertionError("the disk never filled")


async def test_a_full_disk_fails_calls_and_heals_by_itself(tmp_path: Path) -> None:
    """ENOSPC: nothing half-written stays, readiness is red, and both end with the lack of room."""
    with small_disk(tmp_path) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (MIB // 2))
        sink = await TrailSink.open(disk, "worker-0", None)
        acknowledged: list[str] = []
        error = await fill(sink, acknowledged)
        assert "No space left" in str(error)
        with pytest.raises(AuditUnavailable):
            await sink.check()
        with pytest.raises(AuditUnavailable):
            await sink.append(record(1, padding="y" * 5000))
        assert len(acknowledged) > 100
        ballast.unlink()
        await sink.check()
        await sink.append(b'{"eventVersion":"1.11","requestID":"after"}')
        await sink.close()
        assert_whole(disk, [*acknowledged, "after"])
        (told,) = own_lines(disk, "recovered")
        assert "No space left" in told["failure"]
        assert told["refused"] == 8


async def test_without_room_for_a_write_ahead_file_the_trail_is_synced(tmp_path: Path) -> None:
    """Slower, and as good."""
    with small_disk(tmp_path) as disk:
        sink = await TrailSink.open(disk, "worker-0", None, SinkSettings(ahead_bytes=4 * MIB))
        for number in range(3):
            await sink.append(record(number))
        assert not (disk / ".worker-0.ahead").exists()
        await sink.close()
        assert_whole(disk, ["r0", "r1", "r2"])


async def test_a_full_disk_flaps(tmp_path: Path) -> None:
    """Again and again full, again and again room: one chain, every acknowledged record."""
    with small_disk(tmp_path) as disk:
        ballast = disk / "ballast"
        sink = await TrailSink.open(disk, "worker-0", None)
        acknowledged: list[str] = []
        for round_ in range(5):
            ballast.write_bytes(b"x" * (MIB - (round_ + 1) * 150_000))
            acknowledged_before = len(acknowledged)
            await fill(sink, acknowledged)
            assert len(acknowledged) > acknowledged_before
            ballast.unlink()
        await sink.close()
        assert_whole(disk, acknowledged)


async def test_a_read_only_disk_fails_calls_and_heals_by_itself(tmp_path: Path) -> None:
    """EROFS, as after a file system error."""
    with small_disk(tmp_path) as disk:
        sink = await TrailSink.open(disk, "worker-0", None, SinkSettings(file_bytes=65536))
        await sink.append(record(0))
        # A writable descriptor forbids the remount: let the disk go as a failed write would.
        await sink._commit.run(lambda: sink._writer.fail(OSError("test"), 0))
        remount(disk, "ro")
        for act in (sink.append(record(1)), sink.check()):
            with pytest.raises(AuditUnavailable, match="Read-only"):
                await act
        remount(disk, "rw")
        await sink.check()
        await sink.append(record(2))
        await sink.close()
        assert_whole(disk, ["r0", "r2"])


async def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """EFBIG (RLIMIT_FSIZE): the write stops in the middle of a line, and the half of it goes."""
    sink = await TrailSink.open(tmp_path, "worker-0", None)
    await sink.append(record(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sink._writer._durable_bytes + 100, hard))
        with pytest.raises(AuditUnavailable):
            await sink.append(record(1, padding="x" * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await sink.append(record(2))
    await sink.close()
    assert_whole(tmp_path, ["r0", "r2"])


FORBIDDEN_SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from kmsd.adapters.audit_trail.sink import TrailSink
from kmsd.ports import AuditUnavailable

async def main():
    try:
        await TrailSink.open(Path(sys.argv[1]), "worker-0", None)
    except AuditUnavailable as exc:
        print(exc)

os.setuid(65534)
asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_directory_without_permission() -> None:
    """EACCES at start: the writer does not begin, and says why."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "audit"
        folder.mkdir(mode=0o755)
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN_SCRIPT, str(folder)], capture_output=True, text=True, check=False
        )
    assert "Permission denied" in done.stdout, done.stderr


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
long syscall(long number, ...) {
    long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
    va_list rest;
    long given[4];
    va_start(rest, number);
    for (int i = 0; i < 4; i++) given[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_io_submit && access(getenv("FAIL_SYNC"), F_OK) == 0) { errno = EIO; return -1; }
    return real(number, given[0], given[1], given[2], given[3], 0L);
}
int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (access(getenv("FAIL_SYNC"), F_OK) == 0) { errno = EIO; return -1; }
    return real(fd);
}
"""

SYNC_SCRIPT = """
import asyncio, sys
from pathlib import Path
from kmsd.adapters.audit_trail.sink import TrailSink, SinkSettings
from kmsd.ports import AuditUnavailable
from tests.support.audit_trail import record

async def main():
    folder, flag = Path(sys.argv[1]), Path(sys.argv[2])
    sink = await TrailSink.open(folder, "worker-0", None, SinkSettings(ahead_bytes=int(sys.argv[3])))
    await sink.append(record(0))
    await sink.append(record(1))
    flag.touch()
    for number in (2, 3):
        try:
            await sink.append(record(number))
        except AuditUnavailable as exc:
            print(exc)
    try:
        await sink.check()
    except AuditUnavailable as exc:
        print("check:", exc)
    flag.unlink()
    await sink.check()
    await sink.append(record(4))
    await sink.append(record(5))
    await sink.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("ahead_bytes", [0, 65536])
def test_a_failed_sync_is_never_trusted_again(tmp_path: Path, ahead_bytes: int) -> None:
    """EIO from a sync, or a write that stands for it: what was written is cut off, and another file is begun."""
    folder, flag = tmp_path / "audit", tmp_path / "flag"
    folder.mkdir()
    library = preloadable(tmp_path, "shim", SHIM)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAIL_SYNC": str(flag), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", SYNC_SCRIPT, str(folder), str(flag), str(ahead_bytes)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Input/output error") == 3
    assert_whole(folder, ["r0", "r1", "r4", "r5"])
    first, second = own_lines(folder, "open")
    assert (first["number"], second["number"]) == (1, 2)
    (told,) = own_lines(folder, "recovered")
    assert "SyncFailed" in told["failure"]
    assert json.dumps(told)
