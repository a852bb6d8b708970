"""Pool of worker processes: starts and watches them, restarts those that exit, replaces them at a reload."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import msgspec
import structlog

from kmsd.config.snapshot import ConfigSnapshot
from kmsd.daemon.waiting import Waiting
from kmsd.daemon.worker_processes import STOP_SECONDS, PipeReader, Process, SpawnFailed, WorkerProcesses, insist, kill
from kmsd.daemon.worker_spec import OPENED, READY, REPLACE, NotReady, WorkerSpec
from kmsd.exit_codes import EXIT_PIN_REFUSED, EXIT_UNAVAILABLE, FINAL

START_SECONDS = 90.0
BACKOFF_INITIAL_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 2.0
"""Longest pause in seconds between two attempts to start a worker, and so until a returned component is noticed."""
NO_PROCESS = 0
"""Process id of a worker that has not started yet."""
BACKOFF_RESET_SECONDS = 10.0
"""Seconds of life after which an exited worker is restarted with the initial pause."""

log = structlog.get_logger()


class StartFailed(Exception):
    """A worker or a stand-in did not start to serve."""

    def __init__(self, reported: NotReady) -> None:
        super().__init__(f"{reported.missing}: {reported.detail}")
        self.reported = reported

    @property
    def final(self) -> bool:
        """True if another attempt would fail too, or must not be made."""
        return self.reported.status in FINAL

    @classmethod
    def of_worker(cls, detail: str) -> Self:
        """Create the error for a worker that ended or hung without a report. Another attempt may succeed."""
        return cls(NotReady(EXIT_UNAVAILABLE, "worker", detail))


class Worker(msgspec.Struct, eq=False):
    """Slot for a worker, and its present process."""

    index: int
    """Names the worker's audit chain. No two processes have the same index at once."""
    process: Process
    started: float
    draining: bool = False
    """True if another worker has taken over. This one finishes its running calls, and is not restarted."""
    watch: asyncio.Task[None] | None = None


class WorkerPool(msgspec.Struct):
    """Pool of all workers. Used on one event loop."""

    snapshot: ConfigSnapshot
    """Configuration in force."""
    listener: socket.socket
    processes: WorkerProcesses
    metrics: int | None = None
    """Descriptor of the shared memory for metrics; None if they are disabled."""
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when the daemon must end; `failed` is then its exit status."""
    failed: int = 0
    workers: list[Worker] = []
    reload_idle: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Clear while a new configuration is being tried out. No exited worker is restarted meanwhile."""
    pin_refused: bool = False
    """True if the token refused the PIN at the last reload. No worker starts before the next reload: each would offer
    the PIN again."""
    asking: asyncio.Queue[Process] = msgspec.field(default_factory=asyncio.Queue)
    """Processes of workers that have asked for a replacement."""
    waiting: Waiting = msgspec.field(default_factory=lambda: Waiting(_no_callback, lambda: False))
    _parent_pipe: tuple[int, int] = (-1, -1)
    _opened: int = 0
    """Workers that have opened all components and are about to accept connections."""
    _listening: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Open the resources that the workers inherit from this process."""
        self.reload_idle.set()
        self.waiting = Waiting(self._spawn_stand_in, self._lacks_workers)
        # Workers hold the reading end, and end when the parent's death, however it comes, closes the other.
        self._parent_pipe = os.pipe()
        self.processes.start()

    def close(self) -> None:
        """Release the resources. Call it after all workers have ended."""
        self.processes.stop()
        for task in self._listening:
            task.cancel()
        for descriptor in self._parent_pipe:
            os.close(descriptor)

    @property
    def serving(self) -> int:
        """Number of workers that are not draining."""
        return sum(not worker.draining for worker in self.workers)

    def serving_in(self, process: Process) -> Worker | None:
        """Return the worker that serves in this process; None if the process ends or has ended."""
        found = (worker for worker in self.workers if worker.process is process and not worker.draining)
        return next(found, None) if process.returncode is None else None

    def _lacks_workers(self) -> bool:
        """True if no worker serves or is about to."""
        return not self._opened and all(one.process.returncode is not None for one in self.workers)

    # --- Start --------------------------------------------------------------------------------------

    async def start(self, index: int) -> None:
        """Start one more worker and watch it; it serves on return. Raises `StartFailed`."""
        process = await self._spawn(partial(self._spec, index))
        worker = Worker(index, process, asyncio.get_running_loop().time())
        self.workers.append(worker)
        worker.watch = asyncio.create_task(self._watch(worker))

    async def start_others(self) -> None:
        """Start all workers but the first, which serves already. Raises `StartFailed` if one fails permanently.

        A worker that fails temporarily is retried like one that has exited.
        """
        indexes = range(1, self.snapshot.config.workers)
        results = await asyncio.gather(*(self.start(index) for index in indexes), return_exceptions=True)
        for index, result in zip(indexes, results, strict=True):
            if isinstance(result, StartFailed) and not result.final and not self.stopping.is_set():
                log.error("worker_start_failed", worker=index, detail=str(result))
                process = Process(NO_PROCESS)
                process.exited(result.reported.status)
                worker = Worker(index, process, asyncio.get_running_loop().time())
                self.workers.append(worker)
                worker.watch = asyncio.create_task(self._watch(worker))
            elif isinstance(result, BaseException):
                raise result

    async def _spawn_stand_in(self, missing: int) -> Process:
        return await self._spawn(lambda ready: self._spec(0, ready)._replace(missing=missing))

    def _spec(self, index: int, ready: int) -> WorkerSpec:
        accepted = self.snapshot
        return WorkerSpec(
            index, self.listener.fileno(), ready, self._parent_pipe[0], accepted.text, self.metrics, accepted.tls
        )

    async def _spawn(self, spec_with: Callable[[int], WorkerSpec]) -> Process:
        """Start a process and wait until it is ready. Raises `StartFailed`."""
        spawning = asyncio.create_task(self.processes.worker(lambda ready: spec_with(ready).order))
        try:
            await self._until_stopping(spawning)
            if self.stopping.is_set():
                self.processes.stop_spawning()
            elif not spawning.done():
                raise StartFailed.of_worker(f"no process was started within {START_SECONDS:.0f} s")
            child, reports = await spawning
        except SpawnFailed as exc:
            raise StartFailed.of_worker("no process could be started") from exc
        finally:
            spawning.cancel()
        return await self._until_ready(child, reports)

    async def _until_ready(self, child: Process, reports: PipeReader) -> Process:
        report = b""
        try:
            report = await self._next(reports)
            if report == OPENED:
                report = await self._start_accepting(child, reports)
        finally:
            if report != READY:
                reports.close()
        if report == READY:
            listening = asyncio.create_task(self._listen(child, reports))
            self._listening.add(listening)
            listening.add_done_callback(self._listening.discard)
            return child
        await kill(child)
        status = await child.wait()
        if not report:
            raise StartFailed.of_worker(f"it ended with status {status} before it was ready")
        failure = StartFailed(msgspec.json.decode(report, type=NotReady))
        if failure.reported.status == EXIT_PIN_REFUSED:
            consequence = "it is not offered again"
            log.critical("token_pin_refused", detail=failure.reported.detail, consequence=consequence)
        raise failure

    async def _listen(self, child: Process, reports: PipeReader) -> None:
        """Note if the worker asks for a replacement. Returns when it ends."""
        try:
            while report := await reports.line():
                if report == REPLACE:
                    self.asking.put_nowait(child)
        finally:
            reports.close()

    async def _start_accepting(self, child: Process, reports: PipeReader) -> bytes:
        """End the stand-in, then let the worker accept connections. Return the worker's next report.

        In this order, a client that saw the daemon ready is not refused by the stand-in afterwards.
        """
        self._opened += 1
        try:
            await self.waiting.stop_answering()
            child.send_signal(signal.SIGUSR1)
            return await self._next(reports)
        finally:
            self._opened -= 1

    async def _next(self, reports: PipeReader) -> bytes:
        """Return the next report; empty if the process ends, takes too long, or the daemon stops."""
        reading = asyncio.create_task(reports.line())
        try:
            await self._until_stopping(reading)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()

    async def _until_stopping(self, task: asyncio.Task[Any]) -> None:
        """Wait for the task, at most until the daemon stops and at most `START_SECONDS`."""
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([task, stop], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    # --- Watch --------------------------------------------------------------------------------------

    async def _watch(self, worker: Worker) -> None:
        """Restart a worker each time it exits, until it is meant to end."""
        pause = BACKOFF_INITIAL_SECONDS
        while True:
            status = await worker.process.wait()
            if self._is_to_end(worker):
                break
            if worker.process.pid != NO_PROCESS:
                log.error("worker_exited", worker=worker.index, status=status)
            if status == EXIT_PIN_REFUSED:
                self.fail(status)
                break
            lived = asyncio.get_running_loop().time() - worker.started
            pause = BACKOFF_INITIAL_SECONDS if lived > BACKOFF_RESET_SECONDS else min(pause * 2, BACKOFF_MAX_SECONDS)
            while not await self._restart(worker, pause):
                pause = min(pause * 2, BACKOFF_MAX_SECONDS)
        self.workers.remove(worker)

    async def _restart(self, worker: Worker, pause: float) -> bool:
        """Restart a worker after a pause. True if it serves again, or is no longer meant to."""
        await sleep_unless(self.stopping, pause)
        await self.reload_idle.wait()
        if self.pin_refused:
            self._retire_slot(worker)
        if self._is_to_end(worker):
            return True
        worker.started = asyncio.get_running_loop().time()
        try:
            worker.process = await self._spawn(partial(self._spec, worker.index))
        except StartFailed as exc:
            await self._not_started(worker, exc)
            return self.stopping.is_set()
        self.waiting.stop()
        if self._is_to_end(worker):
            worker.process.send_signal(signal.SIGHUP)
        return True

    async def _not_started(self, worker: Worker, failure: StartFailed) -> None:
        """Handle a failed restart: log it if other workers serve, else have a stand-in answer."""
        if self.stopping.is_set():
            return
        if failure.reported.status == EXIT_PIN_REFUSED:
            self.fail(EXIT_PIN_REFUSED)
        elif not self._lacks_workers():
            log.error("worker_start_failed", worker=worker.index, detail=str(failure))
        else:
            await self.wait_for(failure)

    async def wait_for(self, failure: StartFailed) -> None:
        """Have a stand-in answer until the next attempt. If it does not start, the next attempt retries it too."""
        try:
            await self.waiting.start(failure.reported)
        except StartFailed as exc:
            log.error("stand_in_start_failed", detail=str(exc))  # noqa: TRY400 (no traceback wanted)

    def _is_to_end(self, worker: Worker) -> bool:
        return worker.draining or self.stopping.is_set()

    def fail(self, status: int) -> None:
        """End the daemon. After a refused PIN no process that could offer it again may keep running."""
        self.failed = status
        self.stopping.set()

    def _retire_slot(self, worker: Worker) -> None:
        """Leave a slot empty, since a new worker would offer the refused PIN again. The last slot ends the daemon."""
        worker.draining = True
        reason = "the token refused the PIN at the last reload"
        log.error("worker_not_started", worker=worker.index, reason=reason)
        if all(other.draining for other in self.workers):
            self.fail(EXIT_PIN_REFUSED)

    # --- Replace and stop ---------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Start one more worker, with an unused index. Raises `StartFailed`."""
        # Run at most twice as many processes as serve: the token's sessions are limited.
        while sum(one.draining for one in self.workers) >= self.snapshot.config.workers:
            watches = [one.watch for one in self.workers if one.draining and one.watch is not None]
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        taken = {worker.index for worker in self.workers}
        await self.start(next(index for index in range(len(taken) + 1) if index not in taken))

    def relieve(self, worker: Worker) -> None:
        """Have a worker finish its running calls, within `STOP_SECONDS`."""
        worker.draining = True
        if worker.process.returncode is None:
            worker.process.send_signal(signal.SIGHUP)
            asyncio.get_running_loop().call_later(STOP_SECONDS, insist, worker.process)

    async def stop_all(self) -> None:
        """Have every worker leave, and finish its running calls; kill it after `STOP_SECONDS` more."""
        workers, seconds = list(self.workers), STOP_SECONDS + self.snapshot.config.listen.leave_seconds
        await asyncio.gather(self.waiting.stop_answering(), *(kill(worker.process, seconds) for worker in workers))
        watches = [worker.watch for worker in workers if worker.watch is not None]
        if watches:
            await asyncio.wait(watches)


async def _no_callback(_: int) -> Process:
    raise StartFailed.of_worker("the pool has not begun")


async def sleep_unless(event: asyncio.Event, seconds: float) -> None:
    """Sleep, at most until `event` is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
