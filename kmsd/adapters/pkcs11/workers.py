"""Threads that make calls into the module, each with a deadline; and the measure of when no thread is needed.

A call that is past its deadline cannot be stopped: its thread is written off, and another takes its place until
`write_off_limit` of them hang. When a thread comes back late, its result is dropped and it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from kmsd.ports import TokenBusy, TokenTimeout, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Job:
    __slots__ = ("begun", "error", "future", "given_up", "result", "work")

    def __init__(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.begun = False
        self.given_up = False
        self.result: Any = None
        self.error: BaseException | None = None


class Workers:
    """A fixed number of daemon threads. Used from one event loop."""

    def __init__(self, name: str, *, threads: int, queue_limit: int, write_off_limit: int) -> None:
        self._name = name
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._queue_limit = queue_limit
        self._write_off_limit = write_off_limit
        self._lock = threading.Lock()
        self._finished: deque[_Job] = deque()
        self._woken = False
        self._closed = False
        self._under_way: set[_Job] = set()
        self.waiting = 0
        self.written_off = 0
        for _ in range(threads):
            self._start_thread()

    def _start_thread(self) -> None:
        # Daemon threads: one that hangs in a dead module must not keep the process from ending.
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    async def run(self, work: Callable[[], T], *, deadline: float) -> T:
        """The result of `work`, called in a thread.

        Raises `TokenBusy` if it was not begun, `TokenTimeout` if it was begun and did not end in time, and what `work`
        raises. When the waiting task is cancelled, a call that was not begun is dropped; one under way goes on.
        """
        if self._closed:
            raise TokenUnavailable("the token is closed")
        if self.written_off >= self._write_off_limit:
            raise TokenUnavailable(f"{self.written_off} calls hang in the token")
        if self.waiting >= self._queue_limit:
            raise TokenBusy(f"{self.waiting} calls wait for the token")
        job = _Job(work, self._loop.create_future())
        timer = self._loop.call_later(deadline, self._expire, job)
        with self._lock:
            self.waiting += 1
        self._under_way.add(job)
        self._queue.put(job)
        try:
            return cast("T", await job.future)
        finally:
            timer.cancel()

    def _expire(self, job: _Job) -> None:
        if job.future.done():
            return
        with self._lock:
            begun, job.given_up = job.begun, True
        if not begun:
            job.future.set_exception(TokenBusy("no thread was free for the token within the deadline"))
            return
        self.written_off += 1
        self._start_thread()
        job.future.set_exception(TokenTimeout("the token did not answer within the deadline"))

    # --- in the threads -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                self.waiting -= 1
                # A task that no longer waits wants nothing begun in its name.
                job.given_up = job.given_up or job.future.cancelled()
                job.begun = begin = not job.given_up and self.written_off < self._write_off_limit
            if begin:
                try:
                    job.result = job.work()
                except BaseException as error:  # noqa: BLE001 (carried to the waiting task, whatever it is)
                    job.error = error
            else:
                job.error = TokenUnavailable("too many calls hang in the token")
            with self._lock:
                written_off = begin and job.given_up
                self._finished.append(job)
                wake, self._woken = not self._woken, True
            if wake:
                try:
                    self._loop.call_soon_threadsafe(self._settle)
                except RuntimeError:
                    # The loop has been closed: nobody waits any more.
                    return
            if written_off:
                return
            del job  # with the login that it may have failed in: the next one may be long in coming

    def _settle(self) -> None:
        """Hand over all that has finished since the last wake-up: one wake-up for many calls (in the loop)."""
        with self._lock:
            self._woken = False
            jobs = list(self._finished)
            self._finished.clear()
        for job in jobs:
            self._under_way.discard(job)
            if job.begun and job.given_up:
                self.written_off -= 1
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


Kind = Literal["random", "seal", "open", "derive", "sign"]


class Pace:
    """How long each kind of call takes, and whether it may run on the event loop.

    A hop to a thread costs about 80 us; below that a call is cheaper inline, and far above it inline calls starve
    the loop. A token is slow when three of eight inline calls were; or when their moving average is too long, which
    takes many, and each counts for ten times the limit at most: a busy machine interrupts one call in fifty for
    milliseconds, and that is not the token. In threads the time includes the wait for the interpreter lock, so only the
    shortest of eight counts; and because a busy process makes even that look slow, now and then one call is tried
    inline all the same.
    """

    __slots__ = ("_below", "_clock", "_mean", "_mode", "_shortest", "_slow", "_taken", "_trial_at")
    _WEIGHT = 1 / 128
    _WINDOW = 8
    _MOST_SLOW = 2
    """Slow ones that a window of inline calls may hold."""
    _TRIAL_SECONDS = 0.25
    """Between two trials."""
    _TRIAL_BELOW = 0.002
    """Seconds that a call in a thread may take for one to be tried: what the loop stands still for at worst."""

    def __init__(
        self, mode: Literal["auto", "never", "always"], below: float, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._clock = clock
        self._trial_at: dict[Kind, float] = {}
        self._mode = mode
        self._below = below
        self._mean: dict[Kind, float] = {}
        self._shortest: dict[Kind, float] = {}
        self._taken: dict[Kind, int] = {}
        """Calls of the present window, inline or in threads."""
        self._slow: dict[Kind, int] = {}
        """How many of them were slow, inline."""

    def inline(self, kind: Kind) -> bool:
        """Whether the next call of this kind may run on the event loop. Unmeasured kinds may not."""
        if self._mode == "auto":
            mean = self._mean.get(kind, 1.0)
            return mean < self._below or (mean < self._TRIAL_BELOW and self._is_trial(kind))
        return self._mode == "always"

    def _is_trial(self, kind: Kind) -> bool:
        now = self._clock()
        if now < self._trial_at.setdefault(kind, now + self._TRIAL_SECONDS):
            return False
        self._trial_at[kind] = now + self._TRIAL_SECONDS
        return True

    def inline_took(self, kind: Kind, seconds: float) -> None:
        """Note a call that ran on the event loop."""
        mean, below = self._mean.get(kind, seconds), self._below
        if mean >= below:  # a trial
            if seconds < below:
                self._begin_window(kind, seconds)
            return
        self._mean[kind] = mean + (min(seconds, 10 * below) - mean) * self._WEIGHT
        if seconds >= below:
            slow = self._slow[kind] = self._slow.get(kind, 0) + 1
            if slow > self._MOST_SLOW:
                self._begin_window(kind, seconds)
                return
        taken = self._taken[kind] = self._taken.get(kind, 0) + 1
        if taken >= self._WINDOW:
            self._taken[kind] = self._slow[kind] = 0

    def _begin_window(self, kind: Kind, mean: float) -> None:
        self._mean[kind] = mean
        self._taken[kind] = self._slow[kind] = 0

    def thread_took(self, kind: Kind, seconds: float) -> None:
        """Note a call that ran in a thread. Races between threads lose a sample, no more."""
        shortest = self._shortest[kind] = min(self._shortest.get(kind, seconds), seconds)
        taken = self._taken[kind] = self._taken.get(kind, 0) + 1
        if taken >= self._WINDOW:
            self._begin_window(kind, shortest)
            del self._shortest[kind]

    def measure(self, kind: Kind, call: Callable[[], object], times: int = 5) -> None:
        """Set the mean by calling a few times now; the shortest counts."""
        best = 1.0
        for _ in range(times):
            start = perf_counter()
            call()
            best = min(best, perf_counter() - start)
        self._mean[kind] = best

    def snapshot(self) -> dict[str, float]:
        """Seconds per call, by kind."""
        return {str(kind): seconds for kind, seconds in self._mean.items()}
