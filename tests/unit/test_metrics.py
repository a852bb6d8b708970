"""Counting in shared memory: exact, by several processes, through deaths; never in a place of another layout."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kmsd.metrics.exposition import Aggregate, Exposition, write_counts
from kmsd.metrics.layout import HISTOGRAM, TARGETS, layout_of
from kmsd.metrics.recorder import Meter, MetricsPublisher
from kmsd.metrics.shared_memory import SharedMetrics, SlotUnavailable, WorkerSlot
from kmsd.ports.counters import CallCounter, StoreCounters, TokenCounters
from kmsd.ports.histogram import BOUNDS, LatencyHistogram

COUNT = """
import os, sys, time
from pathlib import Path
from kmsd.metrics.shared_memory import WorkerSlot
from kmsd.metrics.layout import layout_of
from kmsd.metrics.recorder import Meter
meter = Meter(WorkerSlot(int(os.environ["MEMORY"]), layout_of(["main", "pq"])))
for _ in range(int(sys.argv[1])):
    meter.answered("TrentService.Encrypt", "OK", 0.0002)
print("done", flush=True)
time.sleep(60)
"""
LAYOUT = layout_of(["main", "pq"])
ENCRYPT = LAYOUT.requests["TrentService.Encrypt"]


@pytest.fixture(name="board")
def _board() -> Iterator[SharedMetrics]:
    board = SharedMetrics(LAYOUT)
    yield board
    board.close()


def test_processes_count_together_and_outlive_their_deaths(board: SharedMetrics) -> None:
    """Two at once, each in a share of its own; after SIGKILL the next goes on in the share of the dead."""
    environment = {**os.environ, "MEMORY": str(board.descriptor)}
    handed_on = (board.descriptor,)
    for total in (20_000, 40_000):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNT, "10000"], env=environment, pass_fds=handed_on, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
        shares = board.shares()
        assert [lives for _, lives in shares] == [True, True]
        assert sum(figures[ENCRYPT] for figures, _ in shares) == total
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert [lives for _, lives in board.shares()] == [False, False]
        assert Aggregate.of(board).counter("starts") == total / 10_000


def test_another_layout_is_refused(board: SharedMetrics) -> None:
    """A worker of another release would count in the wrong places."""
    descriptor = os.open(f"/proc/self/fd/{board.descriptor}", os.O_RDWR)
    os.pwrite(descriptor, struct.pack("d", LAYOUT.fingerprint + 1), 0)
    with pytest.raises(SlotUnavailable, match="another release"):
        WorkerSlot(board.descriptor, LAYOUT)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(SlotUnavailable, match="another release"):
        WorkerSlot(board.descriptor, LAYOUT)
    os.close(descriptor)


def test_other_tokens_are_another_layout(board: SharedMetrics) -> None:
    """A worker with other tokens would count in the wrong places; their order in kmsd.toml does not matter."""
    for tokens in (["main"], ["main", "pq", "more"]):
        with pytest.raises(SlotUnavailable, match="other tokens"):
            WorkerSlot(board.descriptor, layout_of(tokens))
    assert layout_of(["pq", "main"]) == LAYOUT
    assert layout_of(["main", "qp"]).fingerprint != LAYOUT.fingerprint


def test_figures_of_each_token(board: SharedMetrics) -> None:
    """They stand apart, and what is not of one token is summed up."""
    publisher = MetricsPublisher(WorkerSlot(board.descriptor, LAYOUT))
    for number in (1, 2):
        call = CallCounter(calls=number, errors=number, seconds=0.5, buckets=[number, *[0] * len(BOUNDS)])
        found = TokenCounters(calls={"sign": call}, sessions_free=number, unwraps=number, tampered=number)
        publisher.tokens({"main": found, "pq": TokenCounters(sessions_free=7, unwraps=5, tampered=5)})
    page = Exposition()
    write_counts(page, Aggregate.of(board), 0.0, 1)
    lines = page.text().decode().splitlines()
    assert {line for line in lines if line.startswith(("kmsd_token_errors", "kmsd_token_unwraps", "kmsd_wrapped"))} == {
        'kmsd_token_errors_total{call="sign",token="main"} 2.0',
        'kmsd_token_unwraps_total{token="main"} 2.0',
        'kmsd_token_unwraps_total{token="pq"} 5.0',
        "kmsd_wrapped_tampered_total 7.0",
    }
    assert 'kmsd_token_sessions{state="free",token="main"} 2.0' in lines
    assert 'kmsd_token_sessions{state="free",token="pq"} 7.0' in lines
    assert 'kmsd_token_seconds_count{call="sign",token="main"} 2.0' in lines
    WorkerSlot(board.descriptor, LAYOUT)
    assert Aggregate.of(board).token_gauges("sessions_free") == [({"token": "main"}, 2.0), ({"token": "pq"}, 7.0)]


def test_figures_of_a_database_server(board: SharedMetrics) -> None:
    """Summed over workers; none are shown before there was a question, as on SQLite."""

    def lines() -> list[str]:
        page = Exposition()
        write_counts(page, Aggregate.of(board), 0.0, 1)
        return [line for line in page.text().decode().splitlines() if line.startswith("kmsd_store_")]

    publishers = [MetricsPublisher(WorkerSlot(board.descriptor, LAYOUT)) for _ in range(2)]
    for one in publishers:
        one.store(StoreCounters())
    assert lines() == []
    asked = LatencyHistogram()
    asked.observe(0.003)
    for one in publishers:
        one.store(StoreCounters(asked, question_retries=2, failovers=1))
    assert {
        'kmsd_store_question_seconds_bucket{le="0.0025"} 0.0',
        'kmsd_store_question_seconds_bucket{le="0.005"} 2.0',
        "kmsd_store_question_seconds_count 2.0",
        "kmsd_store_question_retries_total 4.0",
        "kmsd_store_failovers_total 2.0",
    } <= set(lines())


def test_no_share_is_an_error_that_says_so() -> None:
    """A path that leads nowhere."""
    with pytest.raises(SlotUnavailable, match="cannot be opened"):
        WorkerSlot(99999, LAYOUT)


def test_classes_of_a_histogram_are_closed_above(board: SharedMetrics) -> None:
    """A value on a bound belongs below it (`le`); what is beyond the last one is in the class that has none."""
    share = WorkerSlot(board.descriptor, LAYOUT)
    meter = Meter(share)
    for seconds in (*BOUNDS, 11.0):
        meter.answered("TrentService.Encrypt", "OK", seconds)
    at = LAYOUT.latencies["TrentService.Encrypt"]
    assert share.values[at : at + HISTOGRAM - 1].tolist() == [1.0] * (HISTOGRAM - 1)
    assert share.values[at + HISTOGRAM - 1] == pytest.approx(sum(BOUNDS) + 11)
    page = Exposition()
    write_counts(page, Aggregate.of(board), 0.0, 1)
    text = page.text().decode()
    assert 'kmsd_request_seconds_bucket{le="0.0001",operation="Encrypt",service="kms"} 1.0\n' in text
    assert f'kmsd_request_seconds_bucket{{le="+Inf",operation="Encrypt",service="kms"}} {len(BOUNDS) + 1}.0\n' in text


def test_a_source_that_begins_anew_is_added_on(board: SharedMetrics) -> None:
    """Figures of the token's adapter begin at nought when the token comes back; the counter does not."""
    publisher = MetricsPublisher(WorkerSlot(board.descriptor, LAYOUT))
    for total, wanted in ((5, 5), (7, 7), (2, 9), (2, 9), (3, 10)):
        publisher.count("hits:derived_key", total)
        assert Aggregate.of(board).counter("hits:derived_key") == wanted


def test_what_nobody_knows_is_counted_together(board: SharedMetrics) -> None:
    """A target and a code that do not exist take no place of their own."""
    share = WorkerSlot(board.descriptor, LAYOUT)
    meter = Meter(share)
    for number in range(100):
        meter.answered(f"TrentService.Made{number}", f"Up{number}", 0.1)
    page = Exposition()
    write_counts(page, Aggregate.of(board), 0.0, 1)
    assert 'kmsd_requests_total{code="other",operation="Unknown",service="Unknown"} 100.0\n' in page.text().decode()
    assert len(set(TARGETS.values())) == len(TARGETS)
