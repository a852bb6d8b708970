"""kill -9 at random moments of a mixed load: what was acknowledged stands, what was refused was not done."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import statistics
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.daemon import CUSTODY, Daemon, provisioned
from tests.support.daemon_state import leftovers, opened
from tests.support.mixed_load import KeyActor, Load, load_on
from tests.support.polling import until

KILLS = int(os.environ.get("KMSD_TEST_KILLS", "2"))
"""500 take half an hour."""
CUSTODIES = ("object", "wrapped") if "KMSD_TEST_EVERY_CUSTODY" in os.environ else (CUSTODY,)
SECONDS = float(os.environ.get("KMSD_TEST_SECONDS", "3600"))
"""No kill after this time."""
AUDIT_EVERY = 50
SLOW_SECONDS = 2.0
"""A start that takes longer is shown with what the daemon said meanwhile."""
log = logging.getLogger(__name__)


def start_all(daemon: Daemon) -> float:
    """Start, and wait for every worker; seconds until the first one answered.

    Kills during a login are the subject of tests/faults/test_login_cuts.py.
    """
    written = daemon.log()
    begun, before = time.monotonic(), written.count('"event": "ready"')
    daemon.start()
    took = time.monotonic() - begun
    if took > SLOW_SECONDS:
        said = daemon.log()[len(written) :]
        log.info("a start took %.2f s; the load on this host is %s\n%s", took, os.getloadavg(), said)
    until(lambda: daemon.log().count('"event": "ready"') > before)
    return took


def strike(daemon: Daemon, kind: str, chance: random.Random) -> float:
    """Kill a worker, the parent, or all; see that all is up again; seconds until somebody answered."""
    if kind == "worker":
        before = opened(daemon)
        begun = time.monotonic()
        os.kill(chance.choice(daemon.workers()), signal.SIGKILL)
        daemon.wait_ready()
        took = time.monotonic() - begun
        until(lambda: opened(daemon) > before)
        return took
    if kind == "parent":
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
    else:
        daemon.kill()
    return start_all(daemon)


def check_trail(daemon: Daemon, load: Load) -> None:
    """The chain is whole, and each acknowledged call is in it."""
    printed = daemon.cli("audit", "verify").stdout.decode()
    log.info("audit verify: %s", printed.splitlines()[-1] if printed else "")
    recorded = {record.get("requestID") for record in daemon.audit_records()}
    assert load.request_ids() <= recorded


def check_keys(daemon: Daemon, load: Load) -> int:
    """Every key ever made is as it should be, and there is none that nobody asked for; how many there are."""
    known: set[str] = set()
    for actor in load.actors:
        if isinstance(actor, KeyActor):
            actor.settle_all()
            known |= {book.key_id for book in actor.keys}
    doubtful = {mark for actor in load.actors if isinstance(actor, KeyActor) for mark in actor.doubtful}
    kms = daemon.client()
    pages = kms.get_paginator("list_keys").paginate()
    found = {key["KeyId"] for page in pages for key in page["Keys"]}
    assert known <= found
    for key_id in found - known:
        metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        assert metadata["Description"] in doubtful or metadata["Origin"] == "EXTERNAL", metadata
        if metadata["Origin"] == "AWS_KMS":
            kms.encrypt(KeyId=key_id, Plaintext=b"whole")
    return len(found)


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("custody", CUSTODIES)
def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path, custody: str) -> None:
    """Workers, the parent or all of them, again and again, under every kind of call."""
    chance = random.Random(os.environ.get("KMSD_TEST_SEED", "20261122"))  # noqa: S311 (moments, no secrets)
    starts: defaultdict[str, list[float]] = defaultdict(list)
    with provisioned(tmp_path, workers=2, custody=custody) as daemon:
        start_all(daemon)
        load = load_on(daemon, chance)
        end = time.monotonic() + SECONDS
        for turn in range(KILLS):
            if time.monotonic() > end:
                break
            kind = chance.choice(("all", "all", "worker", "parent"))

            def kill(over: threading.Event, kind: str = kind) -> None:
                time.sleep(chance.uniform(0.05, 0.6))
                starts[kind].append(strike(daemon, kind, chance))
                over.set()

            load.run(kill)
            load.settle()
            if turn % AUDIT_EVERY == AUDIT_EVERY - 1:
                check_trail(daemon, load)
                report(load, starts, 0)
                log.info("%d kills, %d acknowledged", turn + 1, load.done().total())
        keys = check_keys(daemon, load)
        daemon.stop()
        check_trail(daemon, load)
        assert asyncio.run(leftovers(daemon)) == {}
    report(load, starts, keys)


def report(load: Load, starts: dict[str, list[float]], keys: int) -> None:
    """The figures; seen with --log-cli-level=INFO."""
    log.info("%d keys; acknowledged: %s", keys, json.dumps(dict(load.done())))
    log.info("refused: %s", json.dumps(dict(load.refused())))
    for kind, times in sorted(starts.items()):
        middle, longest = statistics.median(times), max(times)
        log.info("%s: %d kills, answers after %.2f s (median), %.2f s (longest)", kind, len(times), middle, longest)
