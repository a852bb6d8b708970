"""Append-only file written past the page cache: data goes from process memory to the disk and is durable then.

Copying into the page cache took a sixth of the time of a batch of log events, and writing it out from there as long
again (docs/decisions/0008-logs.md). Direct writes begin and end at multiples of a disk's block. The last, unfinished
block is kept in memory and rewritten with the data that follows, as the page cache would do; zeros fill the new last
block. So the file may be longer than its content: by less than a block, or by a write in progress.

Blocks are reserved ahead of the end, and the size is set before each write. Only then does the kernel write
asynchronously. File systems without direct writes get the page cache and fdatasync. Methods block, except `stage`.
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
"""Limits on the bytes reserved at a time; between them, as much again as is reserved already."""


class DirectAppendFile:
    """Append-only file, locked (flock) while open. Methods raise OSError; after an error, `cut` and `close` it."""

    def __init__(self, path: Path, head: bytes) -> None:
        """Create the file, which must not exist, and write its first bytes."""
        self._reserved = 0
        self._reserves = True
        self._last = b""
        """Content of the unfinished last block."""
        self.end = 0
        """End of the durable content."""
        self.is_direct = True
        try:
            self._open(path, os.O_EXCL | os.O_DIRECT | os.O_DSYNC, head)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # The file system does not support O_DIRECT; the failed open may have created the file nevertheless.
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
        """True if the file still has a name."""
        return os.fstat(self._descriptor).st_nlink > 0

    def room(self, length: int) -> int:
        """Return the buffer size that `stage` needs for `length` new bytes."""
        return round_up(len(self._last) + length)

    def stage(self, parts: Iterable[bytes], buffer: Buffer) -> Write:
        """Return the write that appends `parts`. The buffer must be large enough (`room`)."""
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
        """Count a staged write of `length` new bytes as complete and durable."""
        held = len(self._last) + length
        whole = held - held % BLOCK_SIZE
        self._last = buffer.memory[whole:held]
        self.end += length

    def append(self, parts: list[bytes]) -> None:
        """Append parts; durable on return."""
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
        """Truncate the file to its durable content and release the reserved blocks."""
        os.ftruncate(self._descriptor, self.end)
        self._reserved = round_up(self.end)

    def close(self) -> None:
        """Close the file, which releases its lock."""
        os.close(self._descriptor)
