"""Segments as files below one folder; implements `kmsd.cloudwatch_logs.ports.Segments`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog

from kmsd.cloudwatch_logs.frames import Frame, FrameIds, WrappedKey
from kmsd.cloudwatch_logs.ports import (
    DropResult,
    FrameQuery,
    SegmentDamaged,
    SegmentsUnavailable,
    StoredFrame,
    StreamSummary,
)
from kmsd.cloudwatch_logs.segments import compaction, files
from kmsd.cloudwatch_logs.segments.catalog import Catalog, Frames, read_frames
from kmsd.cloudwatch_logs.segments.direct_writers import DirectWriterPool
from kmsd.cloudwatch_logs.segments.writer import Writer
from kmsd.linux.files import sync_folder, write_all

MAX_WRITERS = 256
"""Limit on the groups with an open segment in a process; beyond it, the least recently used one is finished."""
MAX_CATALOGS = 1_000
LEFTOVERS_EVERY = 600_000
"""Milliseconds between two searches for segments that dead processes left unfinished."""
RESULTS = "results"

log = structlog.get_logger()
_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


@contextmanager
def translated() -> Iterator[None]:
    """Translate OSError to `SegmentsUnavailable`."""
    try:
        yield
    except OSError as exc:
        raise SegmentsUnavailable(exc.strerror or str(exc)) from exc


class FileSegments:
    """Implements `kmsd.cloudwatch_logs.ports.Segments`."""

    def __init__(self, folder: Path) -> None:
        """Create nothing yet: the folder is created, readable by its owner alone, on the first write or `check`.

        An administrator may run commands that open the segments as another user.
        """
        self._folder = folder
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="segments")
        self._lanes = DirectWriterPool()
        self._names = FrameIds()
        self._writers: OrderedDict[bytes, Writer] = OrderedDict()
        self._catalogs: OrderedDict[bytes, Catalog] = OrderedDict()
        self._frames = Frames()
        self._searched_at: int | None = None

    def _of(self, group_id: bytes) -> Path:
        return self._folder / group_id.hex()

    # --- writing ------------------------------------------------------------------------------------

    async def append(
        self, group_id: bytes, frame: Frame, sealed: bytes, data_key: WrappedKey, *, expires_at: int = 0
    ) -> None:
        del expires_at  # a segment is finished after an hour at most, so its events expire together
        writer = self._writers.get(group_id)
        if writer is None:
            writer = self._writers[group_id] = Writer(
                self._of(group_id), group_id, self._names, self._threads, self._lanes
            )
        else:
            self._writers.move_to_end(group_id)
        if len(self._writers) > MAX_WRITERS:
            idle = next((name for name, one in self._writers.items() if one.idle), None)
            if idle is not None and idle != group_id:
                await self._finish(idle)
        await writer.append(frame, sealed, data_key)

    async def _finish(self, group_id: bytes) -> None:
        """Finish a group's segment; later frames go into a new one."""
        writer = self._writers.pop(group_id, None)
        if writer is None:
            return
        try:
            await writer.finish()
        except OSError as exc:
            # Its events are durable nevertheless: `maintain` finishes segments without an index.
            log.warning("log_segment_unfinished", group=group_id.hex(), detail=str(exc))

    # --- reading ------------------------------------------------------------------------------------

    def _catalog(self, group_id: bytes) -> Catalog:
        catalog = self._catalogs.get(group_id)
        if catalog is None:
            catalog = self._catalogs[group_id] = Catalog(self._of(group_id), group_id, self._frames)
            if len(self._catalogs) > MAX_CATALOGS:
                self._catalogs.popitem(last=False)
        else:
            self._catalogs.move_to_end(group_id)
        with translated():
            catalog.refresh()
        return catalog

    async def find(self, group_id: bytes, wanted: FrameQuery) -> AsyncIterator[StoredFrame]:
        for stored in self._catalog(group_id).find(wanted):
            yield stored

    async def read(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Sequence[bytes]:
        folder = self._of(group_id)
        try:
            return await self._in_thread(read_frames, folder, list(frames))
        except FileNotFoundError as exc:
            raise SegmentsUnavailable("a segment was replaced while it was read") from exc
        except OSError as exc:
            raise SegmentsUnavailable(exc.strerror or str(exc)) from exc

    async def data_keys(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Mapping[bytes, WrappedKey]:
        catalog = self._catalogs.get(group_id) or self._catalog(group_id)
        one_each = {stored.frame.data_key_id: stored for stored in frames}
        return {data_key_id: catalog.key(stored) for data_key_id, stored in one_each.items()}

    async def summaries(self, group_id: bytes) -> Mapping[bytes, StreamSummary]:
        return self._catalog(group_id).summaries()

    async def sync(self, group_id: bytes) -> None:
        paths = [segment.path for segment in self._catalog(group_id).segments() if not segment.finished]
        with translated():
            await self._in_thread(files.sync_segments, paths)

    # --- removing -----------------------------------------------------------------------------------

    async def delete_group(self, group_id: bytes) -> None:
        self._catalogs.pop(group_id, None)
        await self._finish(group_id)
        with translated():
            await self._in_thread(_remove_folder, self._of(group_id))

    async def apply_retention(self, group_id: bytes, *, before: int, dead_streams: frozenset[bytes]) -> DropResult:
        catalog = self._catalog(group_id)
        with translated():
            return await self._in_thread(
                compaction.apply_retention, self._of(group_id), group_id, catalog, before, dead_streams
            )

    async def drop_expired(self, now: int) -> Sequence[bytes]:
        del now
        return ()

    async def maintain(self, now: int) -> None:
        for group_id in [name for name, writer in self._writers.items() if writer.idle and writer.is_old(now)]:
            await self._finish(group_id)
        if self._searched_at is None or abs(now - self._searched_at) >= LEFTOVERS_EVERY:
            self._searched_at = now
            with translated():
                await self._in_thread(compaction.finish_leftovers, self._folder)

    # --- results ------------------------------------------------------------------------------------

    async def put_result(self, query_id: str, content: bytes) -> None:
        path = self._folder / RESULTS / query_id

        def write() -> None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_durably(path, lambda descriptor: write_all(descriptor, content))
            sync_folder(path.parent)

        with translated():
            await self._in_thread(write)

    async def get_result(self, query_id: str) -> bytes:
        path = self._folder / RESULTS / query_id
        try:
            return await self._in_thread(path.read_bytes)
        except FileNotFoundError as exc:
            raise SegmentDamaged(f"result {query_id}") from exc
        except OSError as exc:
            raise SegmentsUnavailable(exc.strerror or str(exc)) from exc

    async def delete_result(self, query_id: str) -> None:
        with translated():
            await self._in_thread((self._folder / RESULTS / query_id).unlink, True)

    async def check(self) -> None:
        with translated():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # `access` succeeds on a file system that the kernel has made read-only after errors; `utime` fails there.
            os.utime(self._folder)
        if not os.access(self._folder, os.W_OK) or os.statvfs(self._folder).f_bavail == 0:
            raise SegmentsUnavailable(f"{self._folder} cannot be written")

    async def close(self) -> None:
        for group_id in list(self._writers):
            await self._finish(group_id)
        self._lanes.close()
        self._threads.shutdown()

    async def _in_thread(self, act: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *arguments)


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
        sync_folder(folder.parent)
