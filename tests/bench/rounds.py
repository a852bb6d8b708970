"""Interleaved rounds, A B C A B C, so that what disturbs the machine disturbs all alike; and their medians."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import wrk
from tests.bench.servers import Site

Load = wrk.Replay | Sequence[wrk.Replay]


@dataclass
class Taken:
    """What was seen of one server over all rounds."""

    results: list[wrk.Result] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Microseconds of its processes per request."""

    @property
    def per_second(self) -> float:
        """Median."""
        return statistics.median(result.per_second for result in self.results)

    @property
    def p50(self) -> float:
        """Median of the rounds', in microseconds."""
        return statistics.median(result.p50 for result in self.results)

    @property
    def p99(self) -> float:
        """Median of the rounds', in microseconds."""
        return statistics.median(result.p99 for result in self.results)

    @property
    def errors(self) -> int:
        """Over all rounds; there are to be none."""
        return sum(result.errors for result in self.results)

    @property
    def cpu_per_request(self) -> float:
        """Median, in microseconds."""
        return statistics.median(self.cpu)

    def shown(self) -> dict[str, float]:
        """For the report."""
        shown = {"per second": round(self.per_second), "p50 us": self.p50, "p99 us": self.p99, "errors": self.errors}
        return shown | ({"cpu us": round(self.cpu_per_request, 1)} if self.cpu else {})


def interleave(
    loads: Mapping[str, tuple[Site | None, Load]], *, connections: int, rounds: int, seconds: float
) -> dict[str, Taken]:
    """Every load in turn, `rounds` times, after a short one each to warm up."""
    taken = {name: Taken() for name in loads}
    for _, load in loads.values():
        wrk.run(load, connections=connections, seconds=1)
    for _ in range(rounds):
        for name, (site, load) in loads.items():
            before = 0.0 if site is None else site.cpu_seconds()
            result = wrk.run(load, connections=connections, seconds=seconds)
            taken[name].results.append(result)
            if site is not None:
                spent = site.cpu_seconds() - before
                taken[name].cpu.append(spent / (result.per_second * seconds) * 1e6)
    return taken
