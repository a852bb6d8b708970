"""Whether a series of samples grows: Theil and Sen's slope, with Sen's interval of confidence.

The slope is the median of those of all pairs of points, so that single outliers (a collection, a sample in the middle
of a burst) do not move it. The interval follows from Kendall's S, whose variance is known without any assumption about
the noise but independence (P. K. Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, 1968); samples
that lie close together are not independent, so medians of blocks are taken first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

_Z95 = 1.959964
"""Of the normal distribution: 95 % lie within so many standard deviations."""
FEWEST = 8
"""Points below which nothing is said."""


@dataclass(frozen=True)
class Slope:
    """Growth per hour."""

    estimate: float
    low: float
    high: float
    """The interval that holds the true slope with 95 % confidence."""

    def verdict(self, limit: float) -> str:
        """`grows`, `steady` or `undecided` (measure for longer), against a limit per hour."""
        if self.low >= limit:
            return "grows"
        return "steady" if self.high < limit else "undecided"


def blocks(samples: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """The medians of stretches of time."""
    stretches: dict[int, list[tuple[float, float]]] = {}
    for at, value in samples:
        stretches.setdefault(int(at // seconds), []).append((at, value))
    return [
        (statistics.median(at for at, _ in points), statistics.median(value for _, value in points))
        for points in stretches.values()
    ]


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Of points (seconds, value); None if there are too few."""
    count = len(points)
    if count < FEWEST:
        return None
    slopes = sorted(
        3600 * (later - earlier) / (then - at)
        for (at, earlier), (then, later) in combinations(sorted(points), 2)
        if then > at
    )
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    reach = _Z95 * deviation
    low = max(0, math.floor((len(slopes) - reach) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + reach) / 2))
    return Slope(statistics.median(slopes), slopes[low], slopes[high])
