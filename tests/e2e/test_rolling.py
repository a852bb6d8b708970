"""Three nodes behind a load balancer are restarted one after the other, under load: no client notices."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.daemon import provisioned
from tests.support.polling import until
from tests.support.rolling import rolling

ROUNDS = int(os.environ.get("KMSD_ROLLING_RESTARTS", "1"))
"""20 by hand."""


@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_no_request_fails(tmp_path: Path) -> None:
    """A node that ends lets go of its connections between two requests, and the balancer has others."""
    with rolling(tmp_path) as found, found.load():
        for _ in range(ROUNDS):
            for node in found.nodes:
                node.stop()
                node.start()
                found.wait_for_calls()


def test_a_daemon_that_leaves(tmp_path: Path) -> None:
    """`/readyz` says so, and calls are served, on new connections too; workers that are told again end at once."""
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace("drain_seconds = 0.1", "leave_seconds = 20.0"))
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        assert daemon.process is not None
        daemon.process.terminate()
        until(lambda: daemon.get("/readyz") == (503, {"status": "failed", "daemon": "leaving"}))
        for _ in range(8):
            assert daemon.client().encrypt(KeyId=key_id, Plaintext=b"x")["KeyId"].endswith(key_id)
        assert daemon.get("/healthz")[0] == 200
        for pid in daemon.workers():
            os.kill(pid, signal.SIGTERM)
        assert daemon.process.wait(15) == 0
