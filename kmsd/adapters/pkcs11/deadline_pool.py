"""Thread pool for calls into the module, each with a deadline.

A call past its deadline cannot be stopped. Its thread is written off, and another replaces it until `abandoned_limit`
threads hang. When a written-off thread returns, its result is dropped and the thread ends.

Threads and the event loop share one interpreter lock. Each handover costs both more than the call's own Python. So
threads start only when needed and do not interrupt the loop when they return from the module. While calls queue up, the
loop is woken once for several results (docs/decisions/0017-slow-tokens.md).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kmsd.ports import TokenBusy, TokenTimeout, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MAX_IDLE_POLLS = 8
"""Finished results that wake the loop even while calls queue up."""
_TICK = 0.01
"""Seconds that a result waits at most for others while calls queue up."""
_CHECK_INTERVAL = 0.05
"""Seconds between two checks for calls past their deadlines."""


class _Job:
    __slots__ = ("abandoned", "deadline", "ended", "error", "future", "result", "started", "work")

    def __init__(self, work: Callable[[], Any], future: asyncio.Future[Any], deadline: float) -> None:
        self.work = work
        self.future = future
        self.deadline = deadline
        self.started = False
        self.ended = False
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None


class DeadlineThreadPool:
    """Bounded pool of daemon threads whose calls have deadlines. Used from one event loop.

    With `low_priority` its threads, and threads that a module starts in them, do not preempt others when they wake.
    """

    def __init__(
        self, name: str, *, threads: int, queue_limit: int, abandoned_limit: int, low_priority: bool = False
    ) -> None:
        self._name = name
        self._low_priority = low_priority
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._queue_limit = queue_limit
        self._abandoned_limit = abandoned_limit
        self._lock = threading.Lock()
        self._started = 0
        """Threads, not counting those written off."""
        self._idle = 0
        """Threads without a call."""
        self._finished: deque[_Job] = deque()
        self._woken = False
        self._gathering = False
        """True while several calls are running and `_poll` is due soon: results may wait for it."""
        self._ticking = False
        self._next_check = 0.0
        self._closed = False
        self._under_way: set[_Job] = set()
        self.waiting = 0
        self.abandoned = 0

    async def run(self, work: Callable[[], T], *, deadline: float) -> T:
        """Call `work` on a thread and return its result.

        Raises `TokenBusy` if the call did not start, and `TokenTimeout` if it started and did not end in time. Raises
        `TokenUnavailable` if the pool is closed or too many calls hang, and what `work` raises. If the waiting task is
        cancelled, a call that has not started is dropped; a running one continues.
        """
        if self._closed:
            raise TokenUnavailable("the token is closed")
        if self.abandoned >= self._abandoned_limit:
            raise TokenUnavailable(f"{self.abandoned} calls hang in the token")
        if self.waiting >= self._queue_limit:
            raise TokenBusy(f"{self.waiting} calls wait for the token")
        job = _Job(work, self._loop.create_future(), self._loop.time() + deadline)
        with self._lock:
            self.waiting += 1
            needs_thread = self.waiting > self._idle and self._started < self._threads
        if needs_thread:
            self._start_thread()
        self._under_way.add(job)
        self._queue.put(job)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(min(_CHECK_INTERVAL, deadline), self._poll)
        return cast("T", await job.future)

    def _start_thread(self) -> None:
        with self._lock:
            self._started += 1
            self._idle += 1
        # Daemon threads: one that hangs in a dead module must not keep the process from exiting.
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _poll(self) -> None:
        """Deliver results and expire late calls. Reschedules itself while calls are running."""
        # From here on a finishing thread wakes the loop itself: the timer may not fire again.
        self._gathering = False
        if self._finished:
            self._deliver()
        now = self._loop.time()
        if now >= self._next_check:
            self._next_check = now + _CHECK_INTERVAL
            for job in [job for job in self._under_way if job.deadline <= now]:
                self._expire(job)
        self._ticking = bool(self._under_way)
        if self._ticking:
            self._gathering = len(self._under_way) > 1
            self._loop.call_later(_TICK if self._gathering else _CHECK_INTERVAL, self._poll)

    def _expire(self, job: _Job) -> None:
        if job.future.done():
            return
        with self._lock:
            if job.ended:
                # Its result is about to be delivered, and its thread continues: another would be one too many.
                return
            begun, job.abandoned = job.started, True
            if begun:
                self.abandoned += 1
                self._started -= 1
        if not begun:
            job.future.set_exception(TokenBusy("no thread was free for the token within the deadline"))
            return
        self._start_thread()
        job.future.set_exception(TokenTimeout("the token did not answer within the deadline"))

    # --- in the threads -----------------------------------------------------------------------------

    def _serve(self) -> None:
        if self._low_priority:
            # If the system refuses, threads preempt the loop as usual. SCHED_RESET_ON_FORK is left out: systemd's
            # RestrictRealtime= treats a policy with that flag as forbidden.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        while (job := self._queue.get()) is not None:
            with self._lock:
                self._idle -= 1
                self.waiting -= 1
                # The waiting task was cancelled: do not start its call.
                job.abandoned = job.abandoned or job.future.cancelled()
                job.started = begin = not job.abandoned and self.abandoned < self._abandoned_limit
            if begin:
                try:
                    job.result = job.work()
                except BaseException as error:  # noqa: BLE001 (raised again in the waiting task)
                    job.error = error
            else:
                job.error = TokenUnavailable("too many calls hang in the token")
            if not self._submit(job):
                return
            del job  # its error may hold an ended login, and the next job may be long in coming

    def _submit(self, job: _Job) -> bool:
        """Queue a result for the event loop. True if this thread continues."""
        with self._lock:
            job.ended = True
            continues = not (job.started and job.abandoned)
            if continues:
                self._idle += 1
            self._finished.append(job)
            # More results will come soon: do not wake the loop for this one.
            waits = (
                self._gathering and self.waiting and len(self._finished) < min(_MAX_IDLE_POLLS, len(self._under_way))
            )
            wake = not waits and not self._woken
            self._woken = self._woken or wake
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The event loop is closed: no task waits any more.
                return False
        return continues

    # --- in the loop --------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Resolve the futures of all finished calls: one wake-up for many."""
        with self._lock:
            self._woken = False
            jobs = list(self._finished)
            self._finished.clear()
        for job in jobs:
            self._under_way.discard(job)
            if job.started and job.abandoned:
                self.abandoned -= 1
            if not job.future.done():
                if job.error is not None:
                    job.future.set_exception(job.error)
                else:
                    job.future.set_result(job.result)

    async def close(self, *, within: float) -> bool:
        """Refuse new calls, wait `within` seconds for running ones, and end the threads. True if all returned."""
        self._closed = True
        end = self._loop.time() + within
        while self._under_way and self._loop.time() < end:  # noqa: ASYNC110 (runs once; an event would cost each call)
            await asyncio.sleep(0.002)
        for _ in range(self._threads):
            self._queue.put(None)
        return not self._under_way
