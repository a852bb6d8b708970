"""The parent is killed alone, while a worker is in the middle of a long job: the daemon starts anew all the same."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.config import settings as configuration
from kmsd.custody import token_objects
from tests.support.daemon import Daemon
from tests.support.faulty_token import bent_daemon
from tests.support.shim import Function, compiler

INTENTS = 60


async def intend(daemon: Daemon) -> None:
    """Leave intents behind, as killed processes do."""
    store = SqliteStore(configuration.load(daemon.config).database)
    try:
        for _ in range(INTENTS):
            await token_objects.record_intent(store, "a test", datetime.now(UTC) - timedelta(hours=1))
    finally:
        await store.close()


@pytest.mark.skipif(compiler() is None, reason="the shim needs a C compiler")
def test_a_worker_without_parent_makes_way(tmp_path: Path) -> None:
    """It held its audit chain until a reconcile was through; the new daemon gave up waiting, and ended."""
    with bent_daemon(tmp_path) as (daemon, shim):
        asyncio.run(intend(daemon))
        # So slow from the start that the reconcile, which comes first, is not through when the daemon is ready.
        shim.delay(Function.FIND_OBJECTS_INIT, 0.05)
        daemon.start()
        shim.delay(Function.FIND_OBJECTS_INIT, 0.2)
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        time.sleep(0.3)  # the old worker is still at it
        daemon.start()
        shim.reset()
        assert "job_interrupted" in daemon.log()
        daemon.stop()
