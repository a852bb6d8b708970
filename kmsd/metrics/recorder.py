"""Metrics of a worker: counts each answered request, and copies other components' figures once a second."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kmsd.metrics.layout import CODES, HISTOGRAM, OTHER, PROBES, TOKEN_CALLS
from kmsd.ports.histogram import BOUNDS
from kmsd.wire.readiness import ABSENT, OK

if TYPE_CHECKING:
    from kmsd.adapters.audit_trail.group_commit import SyncStatistics
    from kmsd.metrics.layout import TokenLayout
    from kmsd.metrics.shared_memory import WorkerSlot
    from kmsd.ports.counters import StoreCounters, TokenCounters

_SUM = HISTOGRAM - 1


class Meter:
    """Counter of requests; implements `kmsd.wire.endpoint.Meter`. One for each worker."""

    def __init__(self, slot: WorkerSlot) -> None:
        layout = slot.layout
        self._figures = slot.values
        self._places = {target: (layout.requests[target], layout.latencies[target]) for target in layout.requests}
        self._unknown = self._places[""]
        self._codes = {code: number for number, code in enumerate(CODES)}
        self._other = self._codes[OTHER]

    def answered(self, target: str, code: str, seconds: float) -> None:
        """Count one request. Takes half a microsecond, on the path of every request."""
        figures = self._figures
        requests, latencies = self._places.get(target, self._unknown)
        figures[requests + self._codes.get(code, self._other)] += 1.0
        figures[latencies + bisect_left(BOUNDS, seconds)] += 1.0
        figures[latencies + _SUM] += seconds


class MetricsPublisher:
    """Copies other components' figures into the share, so that they need not know about metrics."""

    def __init__(self, slot: WorkerSlot) -> None:
        self._figures = slot.values
        self._layout = slot.layout
        self._seen: dict[int, float] = {}

    def add(self, place: int, total: float) -> None:
        """Add the growth of a counter now at `total`. A source that restarted at zero is added as a whole."""
        seen = self._seen.get(place, 0.0)
        self._figures[place] += total - seen if total >= seen else total
        self._seen[place] = total

    def add_histogram(self, place: int, classes: Sequence[int], seconds: float) -> None:
        """Do the same as `add` for all places of a histogram."""
        for number, count in enumerate(classes):
            self.add(place + number, count)
        self.add(place + _SUM, seconds)

    def set(self, gauge: str, value: float) -> None:
        """Set a gauge by its name."""
        self._figures[self._layout.gauges[gauge]] = value

    def count(self, counter: str, total: float) -> None:
        """Update a counter by its name."""
        self.add(self._layout.counters[counter], total)

    def refusals(self, totals: Mapping[str, int]) -> None:
        """Update the refusals of the transport."""
        for reason, total in totals.items():
            self.add(self._layout.refusals.get(reason, self._layout.refusals[OTHER]), total)

    def tokens(self, found: Mapping[str, TokenCounters]) -> None:
        """Update the figures of the token adapters, by the name of the token. Look-ups in memory are summed up."""
        for name, counters in found.items():
            self._token(self._layout.tokens[name], counters)
        every = found.values()
        self.count("tampered", sum(one.tampered for one in every))
        self.count("hits:token_handle", sum(one.handle_hits for one in every))
        self.count("misses:token_handle", sum(one.handle_misses for one in every))
        self.count("hits:derived_key", sum(one.derived_hits for one in every))
        self.count("misses:derived_key", sum(one.derived_misses for one in every))

    def _token(self, places: TokenLayout, found: TokenCounters) -> None:
        for name, call in found.calls.items():
            # A method of the adapter can have the name of a data path call, such as `open`, without being it.
            place = places.calls[name if name in TOKEN_CALLS else OTHER]
            self.add_histogram(place, call.buckets, call.seconds)
            self.add(place + HISTOGRAM, call.errors)
        self.add(places.counters["reconnects"], found.reconnects)
        self.add(places.counters["unwraps"], found.unwraps)
        self.add(places.counters["evictions"], found.evictions)
        gauges = {
            "sessions_in_use": found.sessions_in_use,
            "sessions_free": found.sessions_free,
            "waiting": found.waiting,
            "threads_lost": found.abandoned,
            "derived_keys": found.derived_keys,
            "held_keys": found.held_keys,
            "session_objects": found.session_objects,
        }
        for name, value in gauges.items():
            self._figures[places.gauges[name]] = value

    def audit(self, found: SyncStatistics, unsigned: int) -> None:
        """Update the figures of the trail's writer."""
        self.add_histogram(self._layout.audit_syncs, found.buckets, found.seconds)
        self.count("audit_records", found.records)
        self.count("audit_failures", found.failures)
        self.set("audit_waiting", found.waiting)
        self.set("audit_unsigned", unsigned)

    def store(self, found: StoreCounters) -> None:
        """Update the figures of the database server's use."""
        self.add_histogram(self._layout.questions, found.questions.buckets, found.questions.seconds)
        self.count("question_retries", found.question_retries)
        self.count("failovers", found.failovers)

    def probed(self, states: Mapping[str, str]) -> None:
        """Set the outcome of each `/readyz` probe."""
        for name in PROBES:
            self.set(f"failed:{name}", float(states.get(name, OK) != OK))
        self.set("tokens_absent", sum(state == ABSENT for state in states.values()))
        self.set("probed", time.time())
