"""The workers of `kmsd serve`: started one by one, watched, replaced when they die, relieved at a reload, ended."""

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
from kmsd.daemon.worker_spec import OPENED, READY, NotReady, WorkerSpec
from kmsd.exit_codes import EXIT_RESTORE_REFUSED, EXIT_UNAVAILABLE, FINAL

START_SECONDS = 90.0
BACKOFF_INITIAL_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 2.0
"""Between two attempts to start a worker: what was away is noticed so soon after it has come back."""
NO_PROCESS = 0
"""Instead of a process id, for a worker that has not started yet."""
BACKOFF_RESET_SECONDS = 10.0
"""A worker that lived so long is started anew without a pause."""

log = structlog.get_logger()


class StartFailed(Exception):
    """A worker, or a stand-in, did not come to serve."""

    def __init__(self, told: NotReady) -> None:
        super().__init__(f"{told.missing}: {told.detail}")
        self.reported = told

    @property
    def final(self) -> bool:
        """True if another attempt cannot end otherwise, or may not be made."""
        return self.reported.status in FINAL

    @classmethod
    def of_worker(cls, detail: str) -> Self:
        """It ended, or hung, without a word; another may fare better."""
        return cls(NotReady(EXIT_UNAVAILABLE, "worker", detail))


class Worker(msgspec.Struct, eq=False):
    """A place for a worker, and the process that fills it at present."""

    index: int
    """Names its audit chain: no two processes have the same at once."""
    process: Process
    started: float
    draining: bool = False
    """Another has taken over; it finishes what it has begun, and is not started anew."""
    watch: asyncio.Task[None] | None = None


class WorkerPool(msgspec.Struct):
    """All workers. Belongs to one event loop."""

    snapshot: ConfigSnapshot
    """The configuration in force."""
    listener: socket.socket
    processes: WorkerProcesses
    metrics: int | None = None
    """Descriptor of the memory that workers count in; None: nobody wants the figures."""
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when the daemon is to end; `failed` is then its exit status."""
    failed: int = 0
    workers: list[Worker] = []
    reload_idle: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Clear while it is not yet known whether a new configuration works; no dead worker is started meanwhile."""
    pin_refused: bool = False
    """At the last reload. No worker is started until another reload: each would offer the PIN again."""
    waiting: Waiting = msgspec.field(default_factory=lambda: Waiting(_no_callback, lambda: False))
    _parent_pipe: tuple[int, int] = (-1, -1)
    _opened: int = 0
    """How many workers have opened all and are about to accept connections."""

    def open(self) -> None:
        """Open what the workers need of this process."""
        self.reload_idle.set()
        self.waiting = Waiting(self._spawn_stand_in, self._lacks_workers)
        # The life line: workers hold its reading end and leave when the parent, however it dies, closes the other.
        self._parent_pipe = os.pipe()
        self.processes.start()

    def close(self) -> None:
        """Give it back. All workers have ended."""
        self.processes.stop()
        for descriptor in self._parent_pipe:
            os.close(descriptor)

    @property
    def serving(self) -> int:
        """How many workers are meant to serve."""
        return sum(not worker.draining for worker in self.workers)

    def _lacks_workers(self) -> bool:
        """True if no worker serves, or is about to."""
        return not self._opened and all(one.process.returncode is not None for one in self.workers)

    # --- Starting -----------------------------------------------------------------------------------

    async def start(self, index: int) -> None:
        """One more worker, that serves and is watched. Raises `StartFailed`."""
        process = await self._spawn(partial(self._spec, index))
        worker = Worker(index, process, asyncio.get_running_loop().time())
        self.workers.append(worker)
        worker.watch = asyncio.create_task(self._watch(worker))

    async def start_others(self) -> None:
        """The workers beside the first, which serves. Raises `StartFailed` if one fails for good.

        One that fails for the time being is tried again, as one that has died.
        """
        indexes = range(1, self.snapshot.config.workers)
        results = await asyncio.gather(*(self.start(index) for index in indexes), return_exceptions=True)
        for index, result in zip(indexes, results, strict=True):
            if isinstance(result, StartFailed) and not result.final and not self.stopping.is_set():
                log.error("worker did not start", worker=index, detail=str(result))
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

    async def _spawn(self, lines_with: Callable[[int], WorkerSpec]) -> Process:
        """A process that has said that it is ready. Raises `StartFailed`."""
        born = asyncio.create_task(self.processes.worker(lambda ready: lines_with(ready).order))
        try:
            await self._until_stopping(born)
            if self.stopping.is_set():
                self.processes.stop_spawning()
            elif not born.done():
                raise StartFailed.of_worker(f"no process was started within {START_SECONDS:.0f} s")
            child, words = await born
        except SpawnFailed as exc:
            raise StartFailed.of_worker("no process could be started") from exc
        finally:
            born.cancel()
        return await self._until_ready(child, words)

    async def _until_ready(self, child: Process, words: PipeReader) -> Process:
        try:
            heard = await self._next(words)
            if heard == OPENED:
                heard = await self._start_accepting(child, words)
        finally:
            words.close()
        if heard == READY:
            return child
        await kill(child)
        status = await child.wait()
        if not heard:
            raise StartFailed.of_worker(f"it ended with status {status} before it was ready")
        failure = StartFailed(msgspec.json.decode(heard, type=NotReady))
        if failure.reported.status == EXIT_RESTORE_REFUSED:
            log.critical("the token refused the PIN; it is not offered again", detail=failure.reported.detail)
        raise failure

    async def _start_accepting(self, child: Process, words: PipeReader) -> bytes:
        """Let a worker accept connections, once no stand-in does. What the worker writes then.

        A client that saw the daemon ready is not refused by the stand-in afterwards.
        """
        self._opened += 1
        try:
            await self.waiting.stop_answering()
            child.send_signal(signal.SIGUSR1)
            return await self._next(words)
        finally:
            self._opened -= 1

    async def _next(self, words: PipeReader) -> bytes:
        """What a process writes next; nothing if it ends, or the daemon is to stop."""
        said = asyncio.create_task(words.rest())
        try:
            await self._until_stopping(said)
            return said.result() if said.done() else b""
        finally:
            said.cancel()

    async def _until_stopping(self, task: asyncio.Task[Any]) -> None:
        """Wait for the task; not if the daemon is to stop, and not longer than a start may take."""
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([task, stop], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    # --- Watching -----------------------------------------------------------------------------------

    async def _watch(self, worker: Worker) -> None:
        """See one worker through to its end; start another in its place unless it was to end."""
        pause = BACKOFF_INITIAL_SECONDS
        while True:
            status = await worker.process.wait()
            if self._is_to_end(worker):
                break
            if worker.process.pid != NO_PROCESS:
                log.error("worker died", worker=worker.index, status=status)
            if status == EXIT_RESTORE_REFUSED:
                self.fail(status)
                break
            lived = asyncio.get_running_loop().time() - worker.started
            pause = BACKOFF_INITIAL_SECONDS if lived > BACKOFF_RESET_SECONDS else min(pause * 2, BACKOFF_MAX_SECONDS)
            while not await self._restart(worker, pause):
                pause = min(pause * 2, BACKOFF_MAX_SECONDS)
        self.workers.remove(worker)

    async def _restart(self, worker: Worker, pause: float) -> bool:
        """Try, after a pause; whether that settles it: it serves again, or is not to."""
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
        """A worker did not come back. Whether others serve decides who answers meanwhile."""
        if self.stopping.is_set():
            return
        if failure.reported.status == EXIT_RESTORE_REFUSED:
            self.fail(EXIT_RESTORE_REFUSED)
        elif not self._lacks_workers():
            log.error("worker did not start", worker=worker.index, detail=str(failure))
        else:
            await self.wait_for(failure)

    async def wait_for(self, failure: StartFailed) -> None:
        """Have a stand-in answer until another attempt. One that does not start is tried again with that attempt."""
        try:
            await self.waiting.start(failure.reported)
        except StartFailed as exc:
            log.error("no stand-in was started", detail=str(exc))  # noqa: TRY400 (no traceback wanted)

    def _is_to_end(self, worker: Worker) -> bool:
        return worker.draining or self.stopping.is_set()

    def fail(self, status: int) -> None:
        """End the daemon. After a refused PIN no process that could offer it again is left running."""
        self.failed = status
        self.stopping.set()

    def _retire_slot(self, worker: Worker) -> None:
        """Leave a place empty, since whoever filled it would offer the PIN again. The last one ends the daemon."""
        worker.draining = True
        log.error("worker not started: the token refused the PIN at the last reload", worker=worker.index)
        if all(other.draining for other in self.workers):
            self.fail(EXIT_RESTORE_REFUSED)

    # --- Relieving and ending -----------------------------------------------------------------------

    async def take_over(self) -> None:
        """One more worker, with a name that nobody has. Raises `StartFailed`."""
        # At most twice as many processes as are to serve: a token has so many sessions.
        while sum(one.draining for one in self.workers) >= self.snapshot.config.workers:
            watches = [one.watch for one in self.workers if one.draining and one.watch is not None]
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        taken = {worker.index for worker in self.workers}
        await self.start(next(index for index in range(len(taken) + 1) if index not in taken))

    def relieve(self, worker: Worker) -> None:
        """Have a worker finish what it has begun, in its own time but not for ever."""
        worker.draining = True
        if worker.process.returncode is None:
            worker.process.send_signal(signal.SIGHUP)
            asyncio.get_running_loop().call_later(STOP_SECONDS, insist, worker.process)

    async def stop_all(self) -> None:
        """Ask every worker to finish what it has begun; insist after a while."""
        workers = list(self.workers)
        await asyncio.gather(self.waiting.stop_answering(), *(kill(worker.process) for worker in workers))
        watches = [worker.watch for worker in workers if worker.watch is not None]
        if watches:
            await asyncio.wait(watches)


async def _no_callback(_: int) -> Process:
    raise StartFailed.of_worker("the pool has not begun")


async def sleep_unless(event: asyncio.Event, seconds: float) -> None:
    """Sleep, but not once `event` is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
