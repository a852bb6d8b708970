"""The page of metrics, parsed as Prometheus does it."""

from __future__ import annotations

import re
import time
import urllib.request

from tests.support.daemon import Daemon

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.e+-]+|NaN|[+-]Inf)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def parse(text: str) -> Samples:
    """The text format 0.0.4, strictly: HELP and TYPE once, before the samples of their family, which stand together."""
    assert text.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helped, family = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in kinds
            assert line.split(" ", 3)[3].strip()
        elif line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family == helped
            assert kind in {"counter", "gauge", "histogram"}
            kinds[family] = kind
        else:
            found = _SAMPLE.fullmatch(line)
            assert found is not None, line
            name, labels, value = found[1], found[2] or "", float(found[3])
            assert "".join(match[0] for match in _LABEL.finditer(labels)) == labels
            base = re.sub(r"_(bucket|sum|count)$", "", name) if kinds[family] == "histogram" else name
            assert base == family
            assert (kinds[family] == "counter") == name.endswith("_total")
            key = (name, frozenset(_LABEL.findall(labels)))
            assert key not in samples, line
            samples[key] = value
    _check_histograms(samples, {name for name, kind in kinds.items() if kind == "histogram"})
    return samples


def _check_histograms(samples: Samples, names: set[str]) -> None:
    """Classes are cumulative, and the last is the count."""
    for name in names:
        by_labels: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for (sample, labels), value in samples.items():
            if sample == f"{name}_bucket":
                rest = frozenset(label for label in labels if label[0] != "le")
                by_labels.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        assert by_labels
        for labels, classes in by_labels.items():
            counts = [count for _, count in sorted(classes)]
            assert counts == sorted(counts)
            assert max(classes)[0] == float("inf")
            assert counts[-1] == samples[f"{name}_count", labels]
            assert samples[f"{name}_sum", labels] >= 0


def of(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for (sample, has), value in samples.items() if sample == name and wanted <= has)


ON_POSTGRESQL = frozenset(
    {
        *("kmsd_store_question_retries_total", "kmsd_store_failovers_total", "kmsd_store_timeline", "kmsd_nodes"),
        *("kmsd_store_wal_bytes", "kmsd_store_standbys", "kmsd_store_needs_standby"),
        *(f"kmsd_store_question_seconds{suffix}" for suffix in ("_bucket", "_sum", "_count")),
    }
)
"""Metrics that only a daemon on PostgreSQL serves."""


class Watched:
    """A daemon, and its page of metrics."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.daemon = daemon
        self.port = port

    def text(self) -> str:
        """The page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            return str(answer.read().decode())

    def samples(self) -> Samples:
        """Parsed."""
        return parse(self.text())

    def when(self, name: str, wanted: float, **labels: str) -> Samples:
        """As soon as a metric has a value; what is published once a second takes so long."""
        deadline = time.monotonic() + 15
        while True:
            samples = self.samples()
            if of(samples, name, **labels) == wanted or time.monotonic() > deadline:
                assert of(samples, name, **labels) == wanted, (name, labels)
                return samples
            time.sleep(0.1)
