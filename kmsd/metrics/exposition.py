"""The metrics page: names, help, types, and the sums over all shares. `prometheus_client` writes the text. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric

from kmsd.metrics.layout import CACHES, CODES, HISTOGRAM, PROBES, TARGETS, Layout
from kmsd.metrics.shared_memory import SharedMetrics
from kmsd.ports.histogram import BOUNDS

STALE_SECONDS = 30.0
"""Seconds without a heartbeat after which a worker does not count as ready: its event loop or the process hangs."""

_BOUNDS = [f"{bound:g}" for bound in BOUNDS]
"""Labels of the buckets. They stay: a changed label is another series."""


class Exposition(msgspec.Struct):
    """Collector of the page's metrics, for `prometheus_client`."""

    _metrics: list[Metric] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, object], float]]) -> None:
        """Add a metric with all its samples. Without samples it is left out."""
        metric = Metric(name.removesuffix("_total"), text, kind)
        for labels, value in samples:
            metric.add_sample(name, _texts(labels), float(value))
        if metric.samples:
            self._metrics.append(metric)

    def sample(self, name: str, kind: str, text: str, value: float | None) -> None:
        """Add a metric without labels."""
        self.family(name, kind, text, [] if value is None else [({}, value)])

    def histograms(self, name: str, text: str, samples: Iterable[tuple[Mapping[str, object], Sequence[float]]]) -> None:
        """Add a histogram. Each sample has the `HISTOGRAM` places of a share."""
        metric = Metric(name, text, "histogram")
        for labels, places in samples:
            count = 0.0
            for bound, number in zip((*_BOUNDS, "+Inf"), places, strict=False):
                count += number
                metric.add_sample(f"{name}_bucket", _texts({**labels, "le": bound}), count)
            metric.add_sample(f"{name}_sum", _texts(labels), places[HISTOGRAM - 1])
            metric.add_sample(f"{name}_count", _texts(labels), count)
        if metric.samples:
            self._metrics.append(metric)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as `prometheus_client` asks a collector."""
        yield from self._metrics

    def text(self) -> bytes:
        """Return the page in the text format, version 0.0.4."""
        return generate_latest(self)


def _texts(labels: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


class Aggregate(msgspec.Struct, frozen=True):
    """Sums over all shares."""

    layout: Layout
    counted: Sequence[float]
    """Every place, summed over all shares ever used."""
    living: Sequence[Sequence[float]]
    """Shares of live workers; gauges are taken from these alone."""

    @classmethod
    def of(cls, board: SharedMetrics) -> Aggregate:
        """Sum up the shares of a board."""
        shares = board.shares()
        counted = [sum(column) for column in zip(*(figures for figures, _ in shares), strict=True)]
        living = [figures for figures, lives in shares if lives]
        return cls(board.layout, counted or [0.0] * board.layout.size, living)

    def counter(self, name: str) -> float:
        """Return a counter by its name."""
        return self.counted[self.layout.counters[name]]

    def gauge(self, name: str) -> float:
        """Return a gauge, summed over live workers."""
        return self._living(self.layout.gauges[name])

    def token_counters(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return a counter of every token, as samples."""
        return [({"token": token}, self.counted[at.counters[name]]) for token, at in self.layout.tokens.items()]

    def token_gauges(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return a gauge of every token, summed over live workers, as samples."""
        return [({"token": token}, self._living(at.gauges[name])) for token, at in self.layout.tokens.items()]

    def _living(self, place: int) -> float:
        return sum(figures[place] for figures in self.living)

    def ready(self, now: float) -> int:
        """Return the number of workers with a recent heartbeat whose last probes all succeeded."""
        gauges = self.layout.gauges
        beat, probed = gauges["heartbeat"], gauges["probed"]
        failed = [gauges[f"failed:{probe}"] for probe in PROBES]
        return sum(
            now - figures[beat] < STALE_SECONDS and figures[probed] > 0 and not any(figures[place] for place in failed)
            for figures in self.living
        )


def write_counts(page: Exposition, total: Aggregate, now: float, workers: int) -> None:
    """Write everything that workers count."""
    _requests(page, total)
    _token(page, total)
    _caches(page, total)
    _store(page, total)
    page.sample("kmsd_audit_records_total", "counter", "Audit records made durable.", total.counter("audit_records"))
    page.sample("kmsd_audit_failures_total", "counter", "Failed writes of the trail.", total.counter("audit_failures"))
    page.sample("kmsd_audit_waiting", "gauge", "Audit records waiting to be written.", total.gauge("audit_waiting"))
    page.sample("kmsd_audit_unsigned", "gauge", "Lines of the trail not signed yet.", total.gauge("audit_unsigned"))
    at = total.layout.audit_syncs
    sync = total.counted[at : at + HISTOGRAM]
    page.histograms("kmsd_audit_sync_seconds", "Duration of a write and sync of the audit trail.", [({}, sync)])
    page.sample("kmsd_worker_starts_total", "counter", "Workers started.", total.counter("starts"))
    states = {"configured": workers, "alive": len(total.living), "ready": total.ready(now)}
    page.family("kmsd_workers", "gauge", "Workers by state.", [({"state": name}, n) for name, n in states.items()])
    failed = [({"probe": probe}, total.gauge(f"failed:{probe}")) for probe in PROBES]
    page.family("kmsd_probe_failed_workers", "gauge", "Workers whose last run of this probe failed.", failed)
    absent = total.gauge("tokens_absent")
    page.sample("kmsd_tokens_absent", "gauge", "Further tokens that a worker cannot use, summed over workers.", absent)
    page.sample("kmsd_ready", "gauge", "1 if at least one worker is ready.", float(total.ready(now) > 0))


def _requests(page: Exposition, total: Aggregate) -> None:
    counts, latencies = [], []
    for target, (service, operation) in TARGETS.items():
        labels = {"service": service, "operation": operation}
        at = total.layout.requests[target]
        found = {code: total.counted[at + number] for number, code in enumerate(CODES)}
        if any(found.values()):
            counts += [({**labels, "code": code}, number) for code, number in found.items() if number]
            at = total.layout.latencies[target]
            latencies.append((labels, total.counted[at : at + HISTOGRAM]))
    page.family("kmsd_requests_total", "counter", "Requests answered, by operation and error.", counts)
    page.histograms("kmsd_request_seconds", "Duration of requests, from the whole request to its answer.", latencies)
    refused = [({"reason": reason}, total.counted[place]) for reason, place in total.layout.refusals.items()]
    page.family(
        "kmsd_refused_total",
        "counter",
        "Connections and requests that the transport refused.",
        [(labels, number) for labels, number in refused if number or labels["reason"] == "ConnectionLimit"],
    )
    page.sample("kmsd_connections", "gauge", "Open connections.", total.gauge("connections"))


_TOKEN_GAUGES = {
    "waiting": ("kmsd_token_waiting", "Calls that wait for a session."),
    "threads_lost": ("kmsd_token_threads_lost", "Threads that hang in the module."),
    "derived_keys": ("kmsd_token_derived_keys", "Derived keys in memory."),
    "held_keys": ("kmsd_token_held_keys", "Unwrapped keys in memory."),
    "session_objects": ("kmsd_token_session_objects", "Objects made in the token's module since the workers started."),
}
_TOKEN_COUNTERS = {
    "unwraps": ("kmsd_token_unwraps_total", "Unwrappings of key material."),
    "evictions": ("kmsd_token_evictions_total", "Unwrapped keys that gave way to others."),
    "reconnects": ("kmsd_token_reconnects_total", "Recoveries of a lost token."),
}


def _token(page: Exposition, total: Aggregate) -> None:
    errors, latencies = [], []
    for token, places in total.layout.tokens.items():
        for call, at in places.calls.items():
            labels, found = {"token": token, "call": call}, total.counted[at : at + HISTOGRAM]
            if any(found):
                latencies.append((labels, found))
                errors.append((labels, total.counted[at + HISTOGRAM]))
    page.histograms("kmsd_token_seconds", "Duration of calls to the token, waiting included.", latencies)
    page.family("kmsd_token_errors_total", "counter", "Calls to the token that failed.", errors)
    sessions = [
        ({**labels, "state": state}, number)
        for state in ("in_use", "free")
        for labels, number in total.token_gauges(f"sessions_{state}")
    ]
    page.family("kmsd_token_sessions", "gauge", "Sessions with the token.", sessions)
    for name, (metric, text) in _TOKEN_GAUGES.items():
        page.family(metric, "gauge", text, total.token_gauges(name))
    for name, (metric, text) in _TOKEN_COUNTERS.items():
        page.family(metric, "counter", text, total.token_counters(name))
    tampered = total.counter("tampered")
    page.sample("kmsd_wrapped_tampered_total", "counter", "Rows of wrapped material found changed.", tampered)


def _store(page: Exposition, total: Aggregate) -> None:
    """Write the figures of a database server; nothing without one."""
    at = total.layout.questions
    questions = total.counted[at : at + HISTOGRAM]
    if not any(questions):
        return
    text = "Questions to the database that prove freshness, connecting included."
    page.histograms("kmsd_store_question_seconds", text, [({}, questions)])
    text = "Questions that failed on an old connection and were asked once more."
    page.sample("kmsd_store_question_retries_total", "counter", text, total.counter("question_retries"))
    text = "Times that a worker connected to a server that was promoted since."
    page.sample("kmsd_store_failovers_total", "counter", text, total.counter("failovers"))


def _caches(page: Exposition, total: Aggregate) -> None:
    for kind in ("hits", "misses"):
        found = [({"cache": cache}, total.counter(f"{kind}:{cache}")) for cache in CACHES]
        page.family(f"kmsd_cache_{kind}_total", "counter", f"Look-ups in memory: {kind}.", found)
