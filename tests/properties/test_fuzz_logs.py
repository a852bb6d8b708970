"""Hostile patterns, queries and events; `python -m tests.support.fuzz_logs` tries more, and measures each."""

from __future__ import annotations

import math
import os

from tests.support import fuzz_logs

COUNT = int(os.environ.get("KMSD_TEST_FUZZ_LOGS", "6000"))
SEED = 20261129


def test_nothing_is_raised_that_is_not_declared() -> None:
    """Each pattern and query is refused by name, or decides about every event."""
    found = fuzz_logs.run(COUNT, SEED, limit=math.inf)
    assert found.wrong == []
    assert found.refused < COUNT * 2 / 3
    assert found.matched > COUNT / 10


def test_a_daemon_answers_and_stays() -> None:
    """No 5xx but the documented ones, no worker lost, every query ends, nothing unforeseen in the log."""
    assert fuzz_logs.over_socket(60, SEED) == []
