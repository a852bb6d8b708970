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
GENERATION = "generate_wrapped"
"""Generation of a secret under a domain key. It runs where encryption runs."""
_FIRST = "first_"


def first(kind: Pace) -> Pace:
    """Return the kind of a call that also unwraps or derives its key."""
    return _FIRST + kind


class _EveryKind:
    """All kinds of calls."""

    def __contains__(self, kind: Pace) -> bool:
        return True


class InlinePolicy:
    """Decide for each kind of call where it runs.

    A hop to a thread costs about 80 us. A call that takes about as long is cheaper on the event loop; a call that takes
    much longer would block the loop. `auto` measures each kind when the token is opened. A kind that becomes slow later
    moves to threads until the next start: when `_SLOW_CALLS` of `_WINDOW` calls took `_SLOW_TIMES` the limit. With cold
    caches a call takes three times as long as measured, and a busy machine interrupts one call in fifty for
    milliseconds: neither reaches that threshold. A slow call begins a window; without one nothing is counted.

    A call that also unwraps, derives or generates a key makes a few more calls of the same pace into the module. Its
    kind has a name of its own, and begins where the kind without them is. It is slow at `_MORE_CALLS` times the limit.
    """

    __slots__ = ("_below", "_mode", "_seconds", "inline", "slow_seconds", "watched")
    _WINDOW = 16
    _SLOW_CALLS = 12
    _SLOW_TIMES = 5
    _MORE_CALLS = 4

    def __init__(self, mode: Mode, below: float) -> None:
        self._mode = mode
        self._below = below
        self._seconds: dict[Pace, float] = {}
        self.inline: set[Pace] | _EveryKind = _EveryKind() if mode == "always" else set()
        """Kinds whose next call may run on the event loop. In mode `auto`, unmeasured kinds may not."""
        self.slow_seconds = self._SLOW_TIMES * below
        """Seconds from which on a call on the event loop is slow."""
        self.watched: dict[Pace, tuple[int, int]] = {}
        """Calls and slow calls in a window that a slow call has begun."""

    def record(self, kind: Pace, seconds: float) -> None:
        """Record a call on the event loop that was slow, or of a kind that is watched for that."""
        calls, slow = self.watched.pop(kind, (0, 0))
        limit = self.slow_seconds * (self._MORE_CALLS if kind == GENERATION or kind.startswith(_FIRST) else 1)
        calls, slow = calls + 1, slow + (seconds >= limit)
        if slow >= self._SLOW_CALLS and isinstance(self.inline, set) and kind in self.inline:
            self.inline.discard(kind)
            log.warning("token_slow", kind=kind, seconds=seconds, consequence="calls run on threads")
        if slow and calls < self._WINDOW:
            self.watched[kind] = calls, slow

    def measure(self, kind: Pace, call: Callable[[], object], times: int = 5) -> None:
        """Decide for a kind by running `call` `times` times now. The shortest time counts."""
        best = 1.0
        for _ in range(times):
            start = perf_counter()
            call()
            best = min(best, perf_counter() - start)
        self._seconds[kind] = best
        if self._mode == "auto" and isinstance(self.inline, set) and best < self._below:
            self.inline |= {kind, first(kind), *((GENERATION,) if kind == "seal" else ())}

    def snapshot(self) -> dict[str, float]:
        """Return the seconds that a call of each kind took when it was measured."""
        return {str(kind): seconds for kind, seconds in self._seconds.items()}
