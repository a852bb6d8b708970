"""The measure of when a call into the module needs no thread."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

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
