"""Latency histograms."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of every histogram, in seconds. One more bucket has no upper bound."""


class LatencyHistogram(msgspec.Struct):
    """Latencies, counted by bucket and summed up."""

    seconds: float = 0.0
    """Sum of all latencies."""
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """Number of latencies in each bucket."""

    def observe(self, seconds: float) -> None:
        """Add one latency."""
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
