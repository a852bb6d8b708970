"""Figures about the use of the token, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: calls are counted by how long they take, up to each of these; those of the last class take longer."""


@dataclass(slots=True)
class CallCounter:
    """One kind of call."""

    calls: int = 0
    """Calls that were begun, whatever came of them."""
    errors: int = 0
    """Calls that raised."""
    seconds: float = 0.0
    """Sum of their durations, waiting for a thread included."""
    classes: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """How many took how long."""

    def took(self, seconds: float) -> None:
        """One call has ended."""
        self.seconds += seconds
        self.classes[bisect_left(BOUNDS, seconds)] += 1


@dataclass(frozen=True, slots=True)
class TokenCounters:
    """A snapshot."""

    calls: dict[str, CallCounter] = field(default_factory=dict)
    """By method of the port."""
    sessions_in_use: int = 0
    sessions_free: int = 0
    waiting: int = 0
    """Calls that wait for a thread."""
    written_off: int = 0
    """Threads that hang in the module past their deadline."""
    derived_keys: int = 0
    """Derived keys in memory."""
    derived_hits: int = 0
    derived_misses: int = 0
    handle_hits: int = 0
    handle_misses: int = 0
    epoch: int = 0
    """Initialisations of the module so far; 0 while the token is away."""
    reconnects: int = 0
    pace: dict[str, float] = field(default_factory=dict)
    """Seconds per call of the data path, as `inline` decides by."""
