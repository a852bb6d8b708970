"""One file, many writers waiting: each line is durable when its `append` returns, one sync for all that wait.

The schedule: a line that arrives when nothing is being synced is written and synced at once; lines that
arrive meanwhile gather, and the next sync takes them all. So one connection waits for one sync, and
sixty-four share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kmsd.ports import AuditUnavailable


class GroupCommitFile:
    """An append-only file. All methods belong to one event loop."""

    def __init__(self, path: Path) -> None:
        """Open or make the file, readable by owner and group. Raises OSError."""
        self.path = path
        self._descriptor = self._open()
        self._end = os.fstat(self._descriptor).st_size
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    def _open(self) -> int:
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if new:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return descriptor

    async def append(self, line: bytes) -> None:
        """Add `line` (without its newline). Raises `AuditUnavailable`; the file then ends where it ended before."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                data = b"".join(line + b"\n" for line, _ in batch)
                try:
                    await loop.run_in_executor(self._thread, self._write, data)
                except OSError as exc:
                    _fail(batch, exc)
                else:
                    _succeed(batch)
        finally:
            self._flushing = None

    def _write(self, data: bytes) -> None:
        """Write and sync. On failure the file is cut back to what was durable, so that no half line stays."""
        try:
            if not self.path.exists():
                raise FileNotFoundError(f"{self.path} has vanished")
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError:
            self._reopen()
            raise
        self._end += len(data)

    def _reopen(self) -> None:
        """A descriptor whose sync failed is not to be trusted again; a new one, cut to the last durable byte."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._end)
        os.close(self._descriptor)
        vanished = not self.path.exists()
        self._descriptor = self._open()
        if vanished:
            self._end = 0

    async def close(self) -> None:
        """Write what waits, and close."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        self._thread.shutdown()
        os.close(self._descriptor)


def _fail(batch: list[tuple[bytes, asyncio.Future[None]]], exc: OSError) -> None:
    for _, done in batch:
        if not done.done():
            error = AuditUnavailable(f"{exc.strerror or exc}")
            error.__cause__ = exc
            done.set_exception(error)


def _succeed(batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
    for _, done in batch:
        if not done.done():
            done.set_result(None)
