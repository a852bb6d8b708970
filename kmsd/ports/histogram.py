"""How often something took how long: what a histogram is made of."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes of every histogram, in seconds; one more class has none."""


class LatencyHistogram(msgspec.Struct):
    """Counted by class, and summed up."""

    seconds: float = 0.0
    """The sum."""
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """How many took how long."""

    def observe(self, seconds: float) -> None:
        """One more has ended."""
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
