"""The writing end of one group in one process: a segment that only this process appends to.

The schedule is that of the audit trail's journal: a frame that arrives when nothing is being synced is
written and synced at once; frames that arrive meanwhile gather, and the next sync takes them all. The loop writes to
the page cache and the kernel syncs (`kmsd.adapters.aio`); a new segment, much at once, and syncs where the kernel
cannot be asked are for a thread.

Of what it has written it remembers nothing but where that ends: an index is made from the segment itself. A busy group
writes a hundred thousand frames into one segment, and a process has 256 groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections import deque
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import structlog

from kmsd.adapters.durable import sync_folder, write_all
from kmsd.adapters.segments import files
from kmsd.adapters.segments import format as fmt
from kmsd.adapters.segments.format import Contents, NotASegment
from kmsd.adapters.segments.syncs import Syncs
from kmsd.domain.log_frame import Frame, FrameIds, WrappedKey
from kmsd.ports_logs import SegmentsUnavailable

SEGMENT_BYTES = 33_554_432
SEGMENT_MILLIS = 3_600_000
"""A segment is finished when it has this size or age: retention removes whole segments."""
MOST_HERE = 4_194_304
"""Bytes that the loop writes itself, in about a millisecond; more is for a thread."""
KNOWN_KEYS = 8
"""Data keys that a segment is known to hold. Each is used for seconds; one that is written once more does no harm."""

log = structlog.get_logger()


class _Waiting(NamedTuple):
    frame: Frame
    sealed: bytes
    data_key: WrappedKey
    done: asyncio.Future[None]


class _Laid(NamedTuple):
    """What a batch adds to the segment."""

    parts: list[bytes]
    keys: list[bytes]
    """Ids of those that are new."""
    end: int


class Writer:
    """All methods belong to one event loop; what begins with `_write` runs in a thread, one call at a time."""

    def __init__(self, folder: Path, group_id: bytes, names: FrameIds, threads: Executor, syncs: Syncs) -> None:
        self._folder = folder
        self._group_id = group_id
        self._names = names
        self._threads = threads
        self._syncs = syncs
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self._descriptor: int | None = None
        self._name = ""
        self._end = 0
        self._keys: deque[bytes] = deque(maxlen=KNOWN_KEYS)
        self._began_at = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._flushing is None and not self._waiting

    def is_old(self, now: int) -> bool:
        """Whether its segment should be finished at `now` (milliseconds)."""
        return self._descriptor is not None and now - self._began_at >= SEGMENT_MILLIS

    async def append(self, frame: Frame, sealed: bytes, data_key: WrappedKey) -> None:
        """As `Segments.append`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(frame, sealed, data_key, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._put(batch)
                except OSError as exc:
                    _settle(batch, exc)
                else:
                    _settle(batch, None)
        finally:
            self._flushing = None

    async def _put(self, batch: list[_Waiting]) -> None:
        """Write and sync. After a failure the segment is left as it was, and never written to again. Raises OSError."""
        kernel = self._syncs.take() if self._is_plain(batch) else None
        if kernel is None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._write, batch)
            return
        descriptor, laid = self._open_descriptor(), self._lay_out(batch)
        try:
            try:
                files.write_parts(descriptor, laid.parts)
            except OSError:
                self._syncs.give_back(kernel)
                raise
            await self._syncs.sync(kernel, descriptor)
        except OSError:
            self._write_off(descriptor)
            raise
        self._take_in(laid)

    def _is_plain(self, batch: list[_Waiting]) -> bool:
        """Whether it only has to be added to the segment that is open, and is not very much."""
        return (
            self._descriptor is not None
            and not self._is_full(batch)
            and sum(len(waiting.sealed) for waiting in batch) <= MOST_HERE
        )

    def _is_full(self, batch: list[_Waiting]) -> bool:
        return self._end >= SEGMENT_BYTES or self.is_old(batch[-1].frame.ingested_at)

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise OSError("no segment is open")
        return self._descriptor

    def _lay_out(self, batch: list[_Waiting]) -> _Laid:
        keys: list[bytes] = []
        parts: list[bytes] = []
        end = self._end
        for waiting in batch:
            key = waiting.data_key
            if key.data_key_id not in self._keys and key.data_key_id not in keys:
                keys.append(key.data_key_id)
                parts.append(fmt.key_record(key))
                end += len(parts[-1])
            length = len(waiting.sealed)
            parts += (fmt.before_frame(waiting.frame, length), waiting.sealed, fmt.END)
            end += fmt.AROUND + length
        return _Laid(parts, keys, end)

    def _take_in(self, laid: _Laid) -> None:
        self._keys.extend(laid.keys)
        self._end = laid.end

    def _write(self, batch: list[_Waiting]) -> None:
        """As `_put`, on a thread; makes a new segment if need be."""
        if self._is_full(batch):
            self._write_end()
        if self._descriptor is None:
            self._write_start(batch[-1].frame.ingested_at)
        descriptor, laid = self._open_descriptor(), self._lay_out(batch)
        try:
            files.write_parts(descriptor, laid.parts)
            os.fdatasync(descriptor)
        except OSError:
            self._write_off(descriptor)
            raise
        self._take_in(laid)

    def _write_start(self, now: int) -> None:
        """A new segment, locked as long as this process lives."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self._folder.parent)
        self._name = f"{self._names.next(now * 1000).hex()}-0"
        path = self._folder / (self._name + files.SEGMENT)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            write_all(descriptor, fmt.header(self._group_id))
            sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._end, self._began_at = descriptor, fmt.HEADER_LENGTH, now
        self._keys.clear()

    def _write_off(self, descriptor: int) -> None:
        """A descriptor whose sync failed is not to be trusted again. What is durable stays; `tidy` finishes it."""
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, self._end)
        self._descriptor = None
        os.close(descriptor)

    def _write_end(self) -> None:
        """Finish the segment, unless its group has been deleted meanwhile."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if os.fstat(descriptor).st_nlink:
                with contextlib.suppress(FileNotFoundError):
                    files.write_index(self._folder, self._name, self._read(), self._group_id)
        finally:
            os.close(descriptor)

    def _read(self) -> Contents:
        """All of the segment. Raises OSError."""
        contents = Contents()
        try:
            files.scan_file(self._folder / (self._name + files.SEGMENT), contents, self._group_id)
        except NotASegment as exc:
            raise OSError(errno.EIO, "a log segment does not begin as it was written") from exc
        if contents.damaged:
            log.error("log segment damaged", segment=self._name, bytes=contents.damaged)
        return contents

    async def finish(self) -> None:
        """Write what waits, finish the segment. Nothing may be appended any more. Raises OSError."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        await asyncio.get_running_loop().run_in_executor(self._threads, self._write_end)


def _settle(batch: list[_Waiting], exc: OSError | None) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue
        if exc is None:
            waiting.done.set_result(None)
        else:
            error = SegmentsUnavailable(exc.strerror or str(exc))
            error.__cause__ = exc
            waiting.done.set_exception(error)
