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
from kmsd.metrics.layout import HISTOGRAM, LAYOUT, TARGETS
from kmsd.metrics.recorder import Meter, MetricsPublisher
from kmsd.metrics.shared_memory import SharedMetrics, SlotUnavailable, WorkerSlot
from kmsd.ports.histogram import BOUNDS

COUNT = """
import os, sys, time
from pathlib import Path
from kmsd.metrics.shared_memory import WorkerSlot
from kmsd.metrics.recorder import Meter
meter = Meter(WorkerSlot(int(os.environ["MEMORY"])).values)
for _ in range(int(sys.argv[1])):
    meter.answered("TrentService.Encrypt", "OK", 0.0002)
print("done", flush=True)
time.sleep(60)
"""
ENCRYPT = LAYOUT.requests["TrentService.Encrypt"]


@pytest.fixture(name="board")
def _board() -> Iterator[SharedMetrics]:
    board = SharedMetrics()
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
        assert Aggregate.of(board.shares()).counter("starts") == total / 10_000


def test_another_layout_is_refused(board: SharedMetrics) -> None:
    """A worker of another release would count in the wrong places."""
    descriptor = os.open(f"/proc/self/fd/{board.descriptor}", os.O_RDWR)
    os.pwrite(descriptor, struct.pack("d", LAYOUT.fingerprint + 1), 0)
    with pytest.raises(SlotUnavailable, match="another release"):
        WorkerSlot(board.descriptor)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(SlotUnavailable, match="another release"):
        WorkerSlot(board.descriptor)
    os.close(descriptor)


def test_no_share_is_an_error_that_says_so() -> None:
    """A path that leads nowhere."""
    with pytest.raises(SlotUnavailable, match="cannot be opened"):
        WorkerSlot(99999)


def test_classes_of_a_histogram_are_closed_above(board: SharedMetrics) -> None:
    """A value on a bound belongs below it (`le`); what is beyond the last one is in the class that has none."""
    share = WorkerSlot(board.descriptor)
    meter = Meter(share.values)
    for seconds in (*BOUNDS, 11.0):
        meter.answered("TrentService.Encrypt", "OK", seconds)
    at = LAYOUT.latencies["TrentService.Encrypt"]
    assert share.values[at : at + HISTOGRAM - 1].tolist() == [1.0] * (HISTOGRAM - 1)
    assert share.values[at + HISTOGRAM - 1] == pytest.approx(sum(BOUNDS) + 11)
    page = Exposition()
    write_counts(page, Aggregate.of(board.shares()), 0.0, 1)
    text = page.text().decode()
    assert 'kmsd_request_seconds_bucket{le="0.0001",operation="Encrypt",service="kms"} 1.0\n' in text
    assert f'kmsd_request_seconds_bucket{{le="+Inf",operation="Encrypt",service="kms"}} {len(BOUNDS) + 1}.0\n' in text


def test_a_source_that_begins_anew_is_added_on(board: SharedMetrics) -> None:
    """Figures of the token's adapter begin at nought when the token comes back; the counter does not."""
    publisher = MetricsPublisher(WorkerSlot(board.descriptor).values)
    for total, wanted in ((5, 5), (7, 7), (2, 9), (2, 9), (3, 10)):
        publisher.count("hits:derived_key", total)
        assert Aggregate.of(board.shares()).counter("hits:derived_key") == wanted


def test_what_nobody_knows_is_counted_together(board: SharedMetrics) -> None:
    """A target and a code that do not exist take no place of their own."""
    share = WorkerSlot(board.descriptor)
    meter = Meter(share.values)
    for number in range(100):
        meter.answered(f"TrentService.Made{number}", f"Up{number}", 0.1)
    page = Exposition()
    write_counts(page, Aggregate.of(board.shares()), 0.0, 1)
    assert 'kmsd_requests_total{code="other",operation="Unknown",service="Unknown"} 100.0\n' in page.text().decode()
    assert len(set(TARGETS.values())) == len(TARGETS)
