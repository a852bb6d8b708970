"""Threads that make calls into the module, each with a deadline.

A call that is past its deadline cannot be stopped: its thread is written off, and another takes its place until
`write_off_limit` of them hang. When a thread comes back late, its result is dropped and it ends.

Threads and the event loop share one interpreter lock, and each time that one takes it from another costs both of them
more than the call's own Python. So threads start as they are needed, do not interrupt the loop when they wake from the
module, and while calls queue up, the loop is woken for several results at once (docs/decisions/0017-slow-tokens.md).
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
"""Results that wake the loop, also while calls queue up."""
_TICK = 0.01
"""Seconds that a result waits at most for others, while calls queue up."""
_LOOK = 0.05
"""Seconds between two looks for calls that are past their deadlines."""


class _Job:
    __slots__ = ("abandoned", "deadline", "error", "future", "result", "started", "work")

    def __init__(self, work: Callable[[], Any], future: asyncio.Future[Any], deadline: float) -> None:
        self.work = work
        self.future = future
        self.deadline = deadline
        self.started = False
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None


class DeadlineThreadPool:
    """Bounded pool of daemon threads whose calls have deadlines. Used from one event loop.

    With `low_priority` its threads do not interrupt others when they wake; nor do threads that a module starts in them.
    """

    def __init__(
        self, name: str, *, threads: int, queue_limit: int, write_off_limit: int, low_priority: bool = False
    ) -> None:
        self._name = name
        self._gives_way = low_priority
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._queue_limit = queue_limit
        self._write_off_limit = write_off_limit
        self._lock = threading.Lock()
        self._started = 0
        """Threads, without those written off."""
        self._idle = 0
        """Threads that have nothing to do."""
        self._finished: deque[_Job] = deque()
        self._woken = False
        self._gathering = False
        """Several calls are under way, and `_poll` comes soon: results may wait for it."""
        self._ticking = False
        self._look_at = 0.0
        self._closed = False
        self._under_way: set[_Job] = set()
        self.waiting = 0
        self.abandoned = 0

    async def run(self, work: Callable[[], T], *, deadline: float) -> T:
        """The result of `work`, called in a thread.

        Raises `TokenBusy` if it was not begun, `TokenTimeout` if it was begun and did not end in time, and what `work`
        raises. When the waiting task is cancelled, a call that was not begun is dropped; one under way goes on.
        """
        if self._closed:
            raise TokenUnavailable("the token is closed")
        if self.abandoned >= self._write_off_limit:
            raise TokenUnavailable(f"{self.abandoned} calls hang in the token")
        if self.waiting >= self._queue_limit:
            raise TokenBusy(f"{self.waiting} calls wait for the token")
        job = _Job(work, self._loop.create_future(), self._loop.time() + deadline)
        with self._lock:
            self.waiting += 1
            lacking = self.waiting > self._idle and self._started < self._threads
        if lacking:
            self._start_thread()
        self._under_way.add(job)
        self._queue.put(job)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(min(_LOOK, deadline), self._poll)
        return cast("T", await job.future)

    def _start_thread(self) -> None:
        with self._lock:
            self._started += 1
            self._idle += 1
        # Daemon threads: one that hangs in a dead module must not keep the process from ending.
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _poll(self) -> None:
        """Hand over what waits, and give up what is too late; as long as there is anything under way."""
        # From here on a finishing thread wakes the loop itself: the timer is not guaranteed to fire again.
        self._gathering = False
        if self._finished:
            self._deliver()
        now = self._loop.time()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            for job in [job for job in self._under_way if job.deadline <= now]:
                self._expire(job)
        self._ticking = bool(self._under_way)
        if self._ticking:
            self._gathering = len(self._under_way) > 1
            self._loop.call_later(_TICK if self._gathering else _LOOK, self._poll)

    def _expire(self, job: _Job) -> None:
        if job.future.done():
            return
        with self._lock:
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
        if self._gives_way:
            # Where the system does not allow it, threads interrupt the loop as all do. SCHED_RESET_ON_FORK is left out:
            # systemd's RestrictRealtime= takes it for a policy beyond those that it allows.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        while (job := self._queue.get()) is not None:
            with self._lock:
                self._idle -= 1
                self.waiting -= 1
                # A task that no longer waits wants nothing begun in its name.
                job.abandoned = job.abandoned or job.future.cancelled()
                job.started = begin = not job.abandoned and self.abandoned < self._write_off_limit
            if begin:
                try:
                    job.result = job.work()
                except BaseException as error:  # noqa: BLE001 (carried to the waiting task, whatever it is)
                    job.error = error
            else:
                job.error = TokenUnavailable("too many calls hang in the token")
            if not self._submit(job):
                return
            del job  # with the login that it may have failed in: the next one may be long in coming

    def _submit(self, job: _Job) -> bool:
        """Have the loop take a result; whether this thread goes on."""
        with self._lock:
            goes_on = not (job.started and job.abandoned)
            if goes_on:
                self._idle += 1
            self._finished.append(job)
            # More is to come soon, so that the loop is not woken for this one.
            holds = (
                self._gathering and self.waiting and len(self._finished) < min(_MAX_IDLE_POLLS, len(self._under_way))
            )
            wake = not holds and not self._woken
            self._woken = self._woken or wake
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop has been closed: nobody waits any more.
                return False
        return goes_on

    # --- in the loop --------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand over all that has finished: one wake-up for many calls."""
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
        """Take no more work, wait for what is under way, and end the threads. Whether all of it came back."""
        self._closed = True
        end = self._loop.time() + within
        while self._under_way and self._loop.time() < end:  # noqa: ASYNC110 (once in a life; calls are many)
            await asyncio.sleep(0.002)
        for _ in range(self._threads):
            self._queue.put(None)
        return not self._under_way
