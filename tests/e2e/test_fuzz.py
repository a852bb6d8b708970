"""Hostile and confused requests over the wire; `KMSD_TEST_FUZZ` says how many.

By hand: `python -m tests.support.fuzz`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import fuzz
from tests.support.daemon import provisioned

COUNT = int(os.environ.get("KMSD_TEST_FUZZ", "10000"))
SEED = 20261122


def test_every_request_is_answered_as_it_may_be(tmp_path: Path) -> None:
    """No 5xx but the documented ones that say "try again", no hang, no worker lost, memory flat, the trail whole."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start()
        workers = daemon.workers()
        found = fuzz.run(daemon, COUNT, SEED)
        fuzz.judge(daemon, found, workers)
        assert found.statuses[200] > COUNT / 20, "too few requests got past the first check"
        assert len(found.codes) > 20
        assert found.memory[-1] - found.memory[1] < 64 * 1024
        daemon.stop()
        assert daemon.cli("audit", "verify", check=False).returncode == 0
