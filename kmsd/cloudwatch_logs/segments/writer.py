"""Writer of one group in one process: appends to a segment that belongs to this process alone.

Uses group commit like the audit trail: a frame that arrives while no write is in progress is written at once. Frames
that arrive during a write are collected, and the next write takes them all. The kernel writes past the page cache while
the event loop continues (`direct_append_file`, `direct_writers`). A thread creates new segments, and does large writes
and those for which no direct writer is available.

The writer remembers little of what it wrote (`index_buffer`); for a large segment, the index is made by reading it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import structlog

from kmsd.cloudwatch_logs.frames import Frame, FrameIds, WrappedKey
from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from kmsd.cloudwatch_logs.segments import files
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments.direct_append_file import DirectAppendFile
from kmsd.cloudwatch_logs.segments.direct_writers import MAX_DIRECT_WRITE_BYTES, DirectWriterPool
from kmsd.cloudwatch_logs.segments.format import Contents, NotASegment, Placed
from kmsd.cloudwatch_logs.segments.index_buffer import IndexBuffer
from kmsd.linux.files import sync_folder

SEGMENT_BYTES = 33_554_432
SEGMENT_MILLIS = 3_600_000
"""Limits on a segment's bytes and age in milliseconds, after which it is finished: retention removes whole segments."""
KNOWN_KEYS = 8
"""Number of data keys remembered as present in the segment. Each is used for seconds; a duplicate does no harm."""

log = structlog.get_logger()


class _Waiting(NamedTuple):
    frame: Frame
    sealed: bytes
    data_key: WrappedKey
    done: asyncio.Future[None]


class _Laid(NamedTuple):
    """Bytes and records that a batch adds to the segment."""

    parts: list[bytes]
    keys: list[WrappedKey]
    """Data keys that are new in the segment."""
    placed: list[Placed]
    length: int
    """Bytes of all parts."""


class Writer:
    """Writer of one group. Call from one event loop; `_write…` methods run in a thread, one call at a time."""

    def __init__(
        self, folder: Path, group_id: bytes, names: FrameIds, threads: Executor, direct_writers: DirectWriterPool
    ) -> None:
        self._folder = folder
        self._group_id = group_id
        self._names = names
        self._threads = threads
        self._direct_writers = direct_writers
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self._file: DirectAppendFile | None = None
        self._name = ""
        self._keys: deque[bytes] = deque(maxlen=KNOWN_KEYS)
        self._index = IndexBuffer()
        self._began_at = 0

    @property
    def idle(self) -> bool:
        """True if no write is in progress or waiting."""
        return self._flushing is None and not self._waiting

    def is_old(self, now: int) -> bool:
        """True if its segment should be finished at `now` (milliseconds)."""
        return self._file is not None and now - self._began_at >= SEGMENT_MILLIS

    async def append(self, frame: Frame, sealed: bytes, data_key: WrappedKey) -> None:
        """Implement `Segments.append`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(frame, sealed, data_key, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                try:
                    await self._put(batch)
                except OSError as exc:
                    _resolve(batch, exc)
                else:
                    _resolve(batch, None)
        finally:
            self._flushing = None

    def _next(self) -> list[_Waiting]:
        """Take the first frame, and as many after it as fit one direct write; readers rely on this limit."""
        room = MAX_DIRECT_WRITE_BYTES
        for count, waiting in enumerate(self._waiting):
            room -= len(waiting.sealed) + fmt.AROUND
            if room < 0 and count:
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    async def _put(self, batch: list[_Waiting]) -> None:
        """Write durably. After a failure, the segment is never written to again. Raises OSError."""
        file = self._file
        if file is None or not file.is_direct or self._is_full(batch):
            await self._put_on_thread(batch)
            return
        laid = self._lay_out(batch, file.end)
        direct = self._direct_writers.acquire() if file.room(laid.length) <= MAX_DIRECT_WRITE_BYTES else None
        if direct is None:
            await self._put_on_thread(batch)
            return
        try:
            await self._direct_writers.write(direct, file.stage(laid.parts, direct.buffer))
            file.sync(laid.length, direct.buffer)
        except OSError:
            self._direct_writers.release(direct)
            self._write_off(file)
            raise
        self._direct_writers.release(direct)
        self._next_bundle(laid)

    async def _put_on_thread(self, batch: list[_Waiting]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._write, batch)

    def _is_full(self, batch: list[_Waiting]) -> bool:
        file = self._file
        return file is None or file.end >= SEGMENT_BYTES or self.is_old(batch[-1].frame.ingested_at)

    def _lay_out(self, batch: list[_Waiting], begin: int) -> _Laid:
        """Lay out a batch from byte `begin` of the segment on."""
        laid = _Laid([], [], [], 0)
        new: dict[bytes, WrappedKey] = {}
        parts, end = laid.parts, begin
        for frame, sealed, key, _ in batch:
            if key.data_key_id not in self._keys and key.data_key_id not in new:
                new[key.data_key_id] = key
                parts.append(fmt.key_record(key))
                end += len(parts[-1])
            length = len(sealed)
            parts += (fmt.before_frame(frame, length), sealed, fmt.END)
            laid.placed.append(Placed(frame, end + fmt.FRAME_BODY, length))
            end += fmt.AROUND + length
        laid.keys.extend(new.values())
        return laid._replace(length=end - begin)

    def _next_bundle(self, laid: _Laid) -> None:
        self._keys.extend(key.data_key_id for key in laid.keys)
        self._index.add(laid.placed, laid.keys)

    def _write(self, batch: list[_Waiting]) -> None:
        """Do the work of `_put` on a thread; create a new segment if necessary."""
        if self._is_full(batch):
            self._write_end()
        file = self._file or self._write_start(batch[-1].frame.ingested_at)
        laid = self._lay_out(batch, file.end)
        try:
            file.append(laid.parts)
        except OSError:
            self._write_off(file)
            raise
        self._next_bundle(laid)

    def _write_start(self, now: int) -> DirectAppendFile:
        """Create a segment, locked as long as this process lives."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self._folder.parent)
        self._name = f"{self._names.next(now * 1000).hex()}-0"
        file = DirectAppendFile(self._folder / (self._name + files.SEGMENT), fmt.header(self._group_id))
        try:
            sync_folder(self._folder)
        except OSError:
            file.close()
            raise
        self._file, self._began_at = file, now
        self._keys.clear()
        self._index = IndexBuffer()
        return file

    def _write_off(self, file: DirectAppendFile) -> None:
        """Abandon a file after a failed write. Its durable content stays; `maintain` finishes it."""
        with contextlib.suppress(OSError):
            file.cut()
        self._file = None
        file.close()

    def _write_end(self) -> None:
        """Finish the segment, unless its group has been deleted in the meantime."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if file.is_linked:
                file.cut()
                with contextlib.suppress(FileNotFoundError):
                    contents = self._index.contents(file.end) or self._read()
                    files.write_index(self._folder, self._name, contents, self._group_id)
        finally:
            file.close()

    def _read(self) -> Contents:
        """Read the whole segment. Raises OSError."""
        contents = Contents()
        try:
            files.scan_file(self._folder / (self._name + files.SEGMENT), contents, self._group_id, synced=True)
        except NotASegment as exc:
            raise OSError(errno.EIO, "a log segment does not begin as it was written") from exc
        if contents.damaged:
            log.error("log_segment_damaged", segment=self._name, bytes=contents.damaged)
        return contents

    async def finish(self) -> None:
        """Write waiting frames and finish the segment. Nothing may be appended afterwards. Raises OSError."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        await asyncio.get_running_loop().run_in_executor(self._threads, self._write_end)


def _resolve(batch: list[_Waiting], exc: OSError | None) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue
        if exc is None:
            waiting.done.set_result(None)
        else:
            error = SegmentsUnavailable(exc.strerror or str(exc))
            error.__cause__ = exc
            waiting.done.set_exception(error)
