"""What metrics cost: counting one request, and one page in the parent.

    .venv/bin/python -m tests.bench.metrics_cost

Two shares, in which every operation has been counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from kmsd.metrics.exposition import Aggregate, Exposition, write_counts
from kmsd.metrics.layout import TARGETS, layout_of
from kmsd.metrics.recorder import Meter
from kmsd.metrics.shared_memory import SharedMetrics, WorkerSlot

COUNT = 200_000


def measured(act: Callable[[], object], times: int) -> float:
    """Microseconds for one, the median of seven rounds."""
    rounds = []
    for _ in range(7):
        begun = time.perf_counter()
        for _ in range(times):
            act()
        rounds.append((time.perf_counter() - begun) / times * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Print both."""
    board = SharedMetrics(layout_of(["main"]))
    shares = [WorkerSlot(board.descriptor, board.layout) for _ in range(2)]
    for share in shares:
        meter = Meter(share)
        for target in TARGETS:
            meter.answered(target, "OK", 0.0003)
    meter = Meter(shares[0])
    per_request = measured(lambda: meter.answered("TrentService.Encrypt", "OK", 0.0003), COUNT)
    empty = measured(lambda: None, COUNT)

    def page() -> bytes:
        found = Exposition()
        write_counts(found, Aggregate.of(board), time.time(), 2)
        return found.text()

    print(f"a request: {per_request - empty:.2f} µs; a page of every operation, {len(page())} bytes: ", end="")
    print(f"{measured(page, 20) / 1000:.1f} ms")


if __name__ == "__main__":
    main()
