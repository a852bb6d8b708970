"""Decision to run a call into the module on the event loop or on a thread."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
Kind = Literal["random", "seal", "open", "sign", "mac", "decrypt_rsa", "agree", "encapsulate", "decapsulate"]
"""Calls of the data path."""
Pace = str
"""Kind, or the algorithm of calls whose time depends on it."""
Mode = Literal["auto", "never", "always"]


class InlinePolicy:
    """Decide for each kind of call where it runs.

    A hop to a thread costs about 80 us. A call that takes about as long is cheaper on the event loop; a call that takes
    much longer would block the loop. `auto` measures each kind when the token is opened. A kind that becomes slow later
    moves to threads until the next start: when `_SLOW_CALLS` of `_WINDOW` calls took `_SLOW_TIMES` the limit. With cold
    caches a call takes three times as long as measured, and a busy machine interrupts one call in fifty for
    milliseconds: neither reaches that threshold.
    """

    __slots__ = ("_below", "_calls", "_inline", "_mode", "_seconds", "_slow")
    _WINDOW = 16
    _SLOW_CALLS = 12
    _SLOW_TIMES = 5

    def __init__(self, mode: Mode, below: float) -> None:
        self._mode = mode
        self._below = below
        self._inline: set[Pace] = set()
        """Kinds that run on the event loop in mode `auto`."""
        self._seconds: dict[Pace, float] = {}
        self._calls: dict[Pace, int] = {}
        """Calls in the current window."""
        self._slow: dict[Pace, int] = {}
        """Slow calls in the current window."""

    def inline(self, kind: Pace) -> bool:
        """True if the next call of this kind may run on the event loop. In mode `auto`, unmeasured kinds may not."""
        if self._mode == "auto":
            return kind in self._inline
        return self._mode == "always"

    def record_inline(self, kind: Pace, seconds: float) -> None:
        """Record how long a call on the event loop took."""
        calls = self._calls[kind] = self._calls.get(kind, 0) + 1
        if seconds >= self._SLOW_TIMES * self._below:
            slow = self._slow[kind] = self._slow.get(kind, 0) + 1
            if slow >= self._SLOW_CALLS and kind in self._inline:
                self._inline.discard(kind)
                log.warning("token_slow", kind=kind, seconds=seconds, consequence="calls run on threads")
        if calls >= self._WINDOW:
            self._calls[kind] = self._slow[kind] = 0

    def measure(self, kind: Pace, call: Callable[[], object], times: int = 5) -> None:
        """Decide for a kind by running `call` `times` times now. The shortest time counts."""
        best = 1.0
        for _ in range(times):
            start = perf_counter()
            call()
            best = min(best, perf_counter() - start)
        self._seconds[kind] = best
        if self._mode == "auto" and best < self._below:
            self._inline.add(kind)

    def snapshot(self) -> dict[str, float]:
        """Return the seconds that a call of each kind took when it was measured."""
        return {str(kind): seconds for kind, seconds in self._seconds.items()}
