"""A file that grows past the page cache: what is appended goes from our memory to the disk, and is durable then.

Copying into the page cache was a sixth of what a batch of log events cost, and writing it out from there took as long
again (docs/decisions/0008-logs.md). Such writes begin and end at multiples of a disk's block: the last, unfinished
block is kept and written again with what follows it, as the page cache would do, and zeros fill the new last block. So
the file may be longer than what it holds, by less than a block, or while a write is under way by that write.

Blocks are reserved ahead of the end and the size is set before each write: only then does the kernel write while the
loop goes on. Where a file system has no such writes, the page cache and fdatasync do. Blocking, apart from `stage`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from kmsd.linux.aio import BLOCK_SIZE, Buffer, Write, round_up
from kmsd.linux.files import reserve, write_at

MIN_AHEAD_BYTES = 65_536
MAX_AHEAD_BYTES = 8_388_608
"""Bytes reserved at a time: as much again as there is, within these."""


class DirectAppendFile:
    """Locked (flock) as long as it is open. Methods raise OSError; after that, `cut` and `close` it."""

    def __init__(self, path: Path, head: bytes) -> None:
        """Make the file, which must not exist, and write how it begins."""
        self._reserved = 0
        self._reserves = True
        self._last = b""
        """What the unfinished block at the end holds."""
        self.end = 0
        """Of what is durable."""
        self.is_direct = True
        try:
            self._open(path, os.O_EXCL | os.O_DIRECT | os.O_DSYNC, head)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # The file system has no writes past its cache; asked for them, it may have made the file all the same.
            self.is_direct = False
            self._open(path, 0, head)

    def _open(self, path: Path, flags: int, head: bytes) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.append([head])
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def is_linked(self) -> bool:
        """Whether the file still has a name."""
        return os.fstat(self._descriptor).st_nlink > 0

    def room(self, length: int) -> int:
        """Bytes of a buffer that `stage` needs for so many new ones."""
        return round_up(len(self._last) + length)

    def stage(self, parts: Iterable[bytes], buffer: Buffer) -> Write:
        """What has to be written so that `parts` stand at the end; the buffer is big enough."""
        memory, at = buffer.memory, len(self._last)
        memory[:at] = self._last
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        whole = round_up(at)
        memory[at:whole] = bytes(whole - at)
        begin = self.end - len(self._last)
        self._extend(begin + whole)
        return Write(self._descriptor, buffer.address, whole, begin)

    def _extend(self, end: int) -> None:
        if self._reserves and end > self._reserved:
            more = max(end - self._reserved, min(max(self._reserved, MIN_AHEAD_BYTES), MAX_AHEAD_BYTES))
            try:
                self._reserve(more)
            except OSError as exc:
                if exc.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
                    self._reserves = False
                else:
                    self._reserve(end - self._reserved)  # the disk is nearly full
        os.ftruncate(self._descriptor, end)

    def _reserve(self, more: int) -> None:
        reserve(self._descriptor, self._reserved, more)
        self._reserved += more

    def sync(self, length: int, buffer: Buffer) -> None:
        """What was staged, of so many new bytes, is written."""
        held = len(self._last) + length
        whole = held - held % BLOCK_SIZE
        self._last = buffer.memory[whole:held]
        self.end += length

    def append(self, parts: list[bytes]) -> None:
        """Durable on return."""
        length = sum(map(len, parts))
        if not length:
            return
        buffer = Buffer(self.room(length))
        write = self.stage(parts, buffer)
        write_at(self._descriptor, memoryview(buffer.memory)[: write.length], write.offset)
        if not self.is_direct:
            os.fdatasync(self._descriptor)
        self.sync(length, buffer)

    def cut(self) -> None:
        """Let the file end where what is durable ends, and give back what was reserved."""
        os.ftruncate(self._descriptor, self.end)
        self._reserved = round_up(self.end)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._descriptor)
