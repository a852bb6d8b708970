"""The short form of scripts/soak: that it measures what it says, and that seconds of load and faults do no harm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak.__main__ import failures, options_of, soak
from tests.soak.slope import blocks, slope
from tests.support.shim import compiler


def series(growth: float, *, minutes: int = 15) -> list[tuple[float, float]]:
    """Samples of a worker that grows by so many MiB an hour, with noise, outliers and a step at the start."""
    chance = random.Random(7)  # noqa: S311 (noise)
    points = []
    for second in range(0, minutes * 60, 2):
        outlier = 30.0 if chance.random() < 0.02 else 0.0
        points.append((float(second), 80 + growth * second / 3600 + chance.gauss(0, 0.05) + outlier))
    return points


@pytest.mark.parametrize(("growth", "verdict"), [(0.0, "steady"), (-3.0, "steady"), (5.0, "grows"), (60.0, "grows")])
def test_growth_is_told_from_noise(growth: float, verdict: str) -> None:
    """In a quarter of an hour, in spite of outliers."""
    found = slope(blocks(series(growth), 20))
    assert found is not None
    assert found.low <= growth <= found.high
    assert found.verdict(1.0) == verdict


def test_little_is_no_proof() -> None:
    """A few points are none; a short noisy series is undecided."""
    assert slope([(0.0, 1.0), (1.0, 2.0)]) is None
    found = slope(blocks(series(1.0, minutes=3), 20))
    assert found is not None
    assert found.verdict(1.0) == "undecided"


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_seconds_of_soak(tmp_path: Path) -> None:
    """All kinds of calls are answered, errors are retryable, no worker ends. So short a time says nothing of memory."""
    options = options_of(["--minutes", "0.1", "--rate", "150", "--fault-seconds", "0.4", "--sample-seconds", "0.2"])
    report = soak(tmp_path, options)
    assert [failure for failure in failures(report) if "grows" not in failure] == []
    assert len(report["good"]) >= 9
    assert sum(report["faults"].values()) >= 3
    assert len(report["series"]) == 10
