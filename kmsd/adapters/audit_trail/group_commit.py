"""Group commit: one sync for all waiting records.

While calls are running whose records are still to come, records are collected: at most `MAX_BATCH`, for at most
`MAX_DELAY_SECONDS`. Then they are written together, and the kernel syncs them (`kmsd.linux.aio`). The event loop
continues meanwhile; a record that arrives before the sync ends belongs to the next batch. A lone request waits for one
sync only. Under load the batches grow, which saves more than syncs: a process that sleeps and wakes for each request
loses the processor's caches. A thread does everything but plain writing (the next file, recovery from an error, the
check of the disk), and the syncs if the kernel offers no asynchronous ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import msgspec
import structlog

from kmsd.adapters.audit_trail.format import Head
from kmsd.adapters.audit_trail.writer import Staged, SyncFailed, TrailWriter
from kmsd.event_loop.cohorts import CohortScheduler
from kmsd.linux.aio import AioContext
from kmsd.ports import AuditUnavailable
from kmsd.ports.histogram import LatencyHistogram

DEADLINE = 10.0
"""Seconds after which the disk is reported as not answering. Submitted writes still wait for it."""

MAX_BATCH = 16
"""Records at which a batch is written at once: each then pays only a small share of the sync."""
IDLE_TURNS = 3
"""Turns of the event loop without a new record after which a batch stops waiting for running calls. A call pauses that
many times before its record (`kmsd.event_loop.cohorts`), unless it waits for the token or the disk."""
MAX_DELAY_SECONDS = 0.002
"""Seconds that a record waits at most for others while the loop is busy with their requests."""

T = TypeVar("T")
Written = Callable[[Head, list[bytes]], None]
_Job = Callable[[], object]

log = structlog.get_logger()


class Uncancellable(asyncio.Future[Head]):
    """Future of a record's commit. A cancelled task still waits for the result."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 (the base's parameter)
        """Refuse. The waiting task is cancelled once the future is done."""
        return False


class SyncStatistics(LatencyHistogram):
    """Time that batches took to write and sync, for metrics.

    Of a batch that the thread writes, this includes the wait for the thread.
    """

    records: int = 0
    """Durable records."""
    failures: int = 0
    """Batches that could not be written."""
    waiting: int = 0
    """Records that wait for the next batch."""


class _Batch(msgspec.Struct):
    """Records that are written together, and the futures of the calls that wait for them."""

    records: list[bytes]
    waiting: list[asyncio.Future[Head]]
    begun: float
    """Start of the write, by `time.perf_counter`."""


class GroupCommit:
    """Owner of a writer and a thread.

    All methods run on one event loop. Only one of loop and thread uses the writer at a time.
    """

    def __init__(self, writer: TrailWriter, written: Written, cohorts: CohortScheduler) -> None:
        self._writer = writer
        self._cohorts = cohorts
        """Counts the running calls that will still write records."""
        self._written = written
        """Called on the loop with the new head and the records that it covers, after each sync."""
        self._loop = asyncio.get_running_loop()
        self._records: list[bytes] = []
        self._waiting: list[asyncio.Future[Head]] = []
        self._gathering = False
        """True if the next batch is already scheduled."""
        self._seen = 0
        """Records in the batch one turn of the loop ago."""
        self._turns = 0
        """Consecutive turns without a new record."""
        self._since = 0.0
        """Start of the batch, by the loop's clock."""
        self._outstanding = 0
        """Jobs that the thread has not finished. While there are any, the loop does not use the writer."""
        self._syncing: tuple[_Batch, Staged] | None = None
        """The batch that the kernel syncs. Until it is done, the thread does not use the writer."""
        self._put_off: list[_Job] = []
        """Jobs for the thread that were submitted during a kernel sync."""
        self._kernel = kernel_sync()
        self._figures = SyncStatistics()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"audit-{writer.writer}", daemon=True)
        self._thread.start()

    def append(self, record: bytes, done: asyncio.Future[Head] | None = None) -> asyncio.Future[Head]:
        """Add one record. The record is durable when the future is done; the result is a head that covers it.

        Returns `done`, if given. If the future raises `AuditUnavailable`, the record is not in the trail.
        """
        if done is None:
            done = self._loop.create_future()
        self._records.append(record)
        self._waiting.append(done)
        if not self._gathering:
            self._gathering = True
            self._since = self._loop.time()
            self._loop.call_soon(self._gather)
        return done

    def _gather(self) -> None:
        """Write the batch if no more records are expected, or it is full, or it has waited long enough."""
        count = len(self._records)
        if count == self._seen:
            self._turns += 1
        else:
            self._seen, self._turns = count, 0
        if (
            self._cohorts.in_flight <= 0
            or count >= MAX_BATCH
            or self._turns > IDLE_TURNS
            or self._loop.time() - self._since >= MAX_DELAY_SECONDS
        ):
            self._hand_over()
        else:
            self._loop.call_soon(self._gather)

    def _hand_over(self) -> None:
        """Write the collected records: to the page cache, with a sync by the kernel, or on the thread."""
        batch = _Batch(self._records, self._waiting, time.perf_counter())
        self._records, self._waiting = [], []
        self._seen = self._turns = 0
        if self._kernel is None or self._outstanding:
            self._write_on_thread(batch)
            return
        try:
            staged = self._writer.begin_write(batch.records)
        except Exception as exc:  # noqa: BLE001 (no call may wait forever; any error becomes AuditUnavailable)
            self._finish(batch, exc)
            return
        if staged is None:
            self._write_on_thread(batch)
            return
        try:
            if staged.write is None:
                self._kernel.submit(staged.descriptor, self._synced)
            else:
                self._kernel.write(staged.write, self._synced)
            self._syncing = batch, staged
        except OSError as exc:
            self._writer.fail(SyncFailed(exc.errno, exc.strerror), len(batch.records))
            self._finish(batch, exc)

    def _synced(self, error: OSError | None) -> None:
        """End the kernel's sync: the batch is durable, or has failed."""
        if self._syncing is None:
            raise RuntimeError("no sync is under way")
        (batch, staged), self._syncing = self._syncing, None
        if error is None:
            self._writer.complete(staged)
        else:
            self._writer.fail(SyncFailed(error.errno, error.strerror), len(batch.records))
        if self._put_off:
            put_off, self._put_off = self._put_off, []
            for job in put_off:
                self._jobs.put(job)
        self._finish(batch, staged.head if error is None else error)

    def _write_on_thread(self, batch: _Batch) -> None:
        def write() -> Head | Exception:
            try:
                return self._writer.append(batch.records)
            except Exception as exc:  # noqa: BLE001 (as above)
                return exc

        self._submit(write, partial(self._finish, batch))

    def _finish(self, batch: _Batch, result: Head | Exception) -> None:
        """Count a batch, start the next one, and answer the calls."""
        figures = self._figures
        figures.observe(time.perf_counter() - batch.begun)
        if isinstance(result, Exception):
            figures.failures += 1
        else:
            figures.records += len(batch.records)
        if len(self._records) >= MAX_BATCH:
            # Start the next write before answering calls: the disk is slower than the loop.
            self._hand_over()
        elif self._records:
            self._since = self._loop.time()
            self._loop.call_soon(self._gather)
        else:
            self._gathering = False
        for done in batch.waiting:
            if done.done():
                continue
            if isinstance(result, Exception):
                done.set_exception(unavailable(result))
            else:
                done.set_result(result)
        if not isinstance(result, Exception):
            self._written(result, batch.records)

    @property
    def statistics(self) -> SyncStatistics:
        """Statistics of this writer, updated on each read."""
        self._figures.waiting = len(self._waiting)
        return self._figures

    async def run(self, act: Callable[[], T]) -> T:
        """Run something else on the writer's thread. Raises `AuditUnavailable`."""
        done: asyncio.Future[T] = self._loop.create_future()

        def job() -> T | Exception:
            try:
                return act()
            except Exception as exc:  # noqa: BLE001 (as above)
                return exc

        def resolve(result: T | Exception) -> None:
            if done.done():
                return
            if isinstance(result, Exception):
                done.set_exception(unavailable(result))
            else:
                done.set_result(result)

        self._submit(job, resolve)
        try:
            async with asyncio.timeout(DEADLINE):
                return await done
        except TimeoutError as exc:
            raise AuditUnavailable("the disk does not answer") from exc

    def _submit(self, job: Callable[[], T], resolve: Callable[[T], None]) -> None:
        """Run `job` on the thread, then `resolve` on the loop."""

        def finish(result: T) -> None:
            self._outstanding -= 1
            resolve(result)

        def work() -> None:
            self._loop.call_soon_threadsafe(finish, job())

        self._outstanding += 1
        if self._syncing is not None:
            self._put_off.append(work)
        else:
            self._jobs.put(work)

    async def close(self) -> None:
        """Wait for the thread's jobs, and end it. Do not call `append` after this."""
        try:
            await self.run(lambda: None)
        finally:
            self._jobs.put(None)
            if self._kernel is not None:
                self._kernel.close()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def kernel_sync() -> AioContext | None:
    """Return an asynchronous I/O context on the running loop; None if the kernel or a seccomp filter refuses."""
    try:
        return AioContext()
    except OSError as exc:
        log.info("audit_syncs_on_thread", reason=str(exc))
        return None


def unavailable(exc: Exception) -> AuditUnavailable:
    """Convert an exception of the adapter to the port's `AuditUnavailable`."""
    reason = getattr(exc, "strerror", None) or exc
    error = AuditUnavailable(f"{type(exc).__name__}: {reason}")
    error.__cause__ = exc
    return error
