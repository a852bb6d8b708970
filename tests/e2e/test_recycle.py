"""SoftHSM2 leaks: a worker that has made many objects in it is replaced, and no client notices."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.daemon.supervisor import REPLACE_ATTEMPTS
from tests.bench import load
from tests.support.daemon import Daemon, eventually, provisioned
from tests.support.daemon_state import cold_blobs, holder_of_jobs
from tests.support.http_load import Load, Plan

LIMIT = 1000
"""The least that kmsd.toml accepts."""
BLOBS = LIMIT + 200


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Two workers that may make few objects; not started."""
    with provisioned(tmp_path, workers=2, extra=f"session_objects = {LIMIT}\n") as found:
        yield found


def decryptions(daemon: Daemon) -> list[bytes]:
    """Start the daemon. Signed requests; a worker makes an object in the token for each that it has not seen yet."""
    daemon.start()
    client = daemon.client()
    key_id = client.create_key()["KeyMetadata"]["KeyId"]
    client.close()
    daemon.stop()
    blobs = asyncio.run(cold_blobs(daemon, key_id, BLOBS))
    daemon.start()
    members: list[dict[str, object]] = [{"CiphertextBlob": base64.b64encode(blob).decode()} for blob in blobs]
    return [load.signed(daemon.endpoint, daemon.admin, "Decrypt", one) for one in members]


def load_of(daemon: Daemon, requests: list[bytes]) -> Load:
    """Eight clients that send all of them, again and again, to one worker or the other."""
    return Load(Plan(daemon.endpoint, requests[0], 8, 120, others=tuple(requests[1:]), keep=50))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_worker_is_replaced_under_load(daemon: Daemon) -> None:
    """Both, one after the other, and no request fails; the jobs go on in a worker that is there."""
    requests = decryptions(daemon)
    before, most = set(daemon.workers()), 0

    def both_replaced() -> bool:
        nonlocal most
        present = daemon.workers()
        most = max(most, len(present))
        return before.isdisjoint(present)

    with load_of(daemon, requests) as running:
        eventually(both_replaced, daemon, 120)
        account = running.result()
    assert (account.failures, account.refused) == (Counter(), 0)
    assert account.answered > BLOBS
    assert most <= 3
    worn, recycled = daemon.events("worker_worn_out"), daemon.events("worker_recycled")
    assert len(recycled) >= 2
    assert all(line["session_objects"]["main"] >= LIMIT for line in worn)
    assert {line["workers"] for line in recycled} == {2}
    for name in ("worker_exited", "worker_start_failed", "job_failed"):
        assert daemon.events(name) == []
    eventually(lambda: len(daemon.workers()) == 2 and holder_of_jobs(daemon) in daemon.workers(), daemon)
    assert daemon.stop() == 0
    recorded = [record for record in daemon.audit_records() if record.get("eventName") == "Decrypt"]
    assert len(recorded) == account.answered
    daemon.cli("audit", "verify")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_goes_on_until_another_has_started(daemon: Daemon) -> None:
    """No worker starts without its PIN. One that asked goes on, and is replaced once another can start."""
    requests = decryptions(daemon)
    before = set(daemon.workers())
    pin = daemon.folder / "pin"
    hidden = pin.rename(daemon.folder / "hidden")
    with load_of(daemon, requests) as running:
        eventually(lambda: len(daemon.events("worker_start_failed")) >= REPLACE_ATTEMPTS, daemon, 120)
        assert before.issubset(daemon.workers())
        hidden.rename(pin)
        eventually(lambda: before.isdisjoint(daemon.workers()), daemon, 120)
        account = running.result()
    assert (account.failures, account.refused) == (Counter(), 0)


@pytest.mark.timeout(300)
def test_a_refused_pin_is_offered_once(daemon: Daemon) -> None:
    """One that asked goes on; the PIN is not offered again until a reload, which replaces all."""
    requests = decryptions(daemon)
    before = set(daemon.workers())
    pin = daemon.folder / "pin"
    right = pin.read_bytes()
    pin.write_bytes(b"wrong-pin-1234")
    with load_of(daemon, requests) as running:
        eventually(lambda: bool(daemon.events("token_pin_refused")), daemon, 120)
        account = running.result()
    assert (account.failures, account.refused) == (Counter(), 0)
    assert before.issubset(daemon.workers())
    assert len(daemon.events("token_pin_refused")) == 1
    pin.write_bytes(right)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: [line["unreplaced"] for line in daemon.events("reloaded")] == [0], daemon)
    eventually(lambda: len(daemon.workers()) == 2 and before.isdisjoint(daemon.workers()), daemon)
