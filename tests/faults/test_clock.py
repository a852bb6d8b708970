"""The clock is set, while the daemon runs or not: nothing is destroyed early, nothing that has expired can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.jobs.scheduler import Scheduler
from tests.support import host_clock
from tests.support.clients import code_of
from tests.support.daemon import Daemon, eventually, provisioned
from tests.support.dated_keys import clock_of_other_node, doomed_key, import_until
from tests.support.harness import Harness, harness
from tests.support.material_ids import held_ids
from tests.support.shim import compiler


@pytest.fixture(name="harness")
def _harness(tmp_path: Path) -> Iterator[Harness]:
    """One for each test: they leave the clock in disorder."""
    with harness(tmp_path) as found:
        found.tick()
        yield found


@pytest.mark.parametrize("restart", [False, True])
def test_forty_days_forward_and_back(harness: Harness, *, restart: bool) -> None:
    """Nothing is destroyed while the clock is wrong, and everything is as before when it is right again."""
    kms = harness.client()
    key_id, blob = doomed_key(harness)
    imported = import_until(harness, days=2)
    before = held_ids(harness)

    def move(days: int) -> None:
        if restart:
            harness.stop()
        harness.clock.set(days=days)
        if restart:
            harness.start()

    move(40)
    kms = harness.client()
    for _ in range(3):
        harness.tick()
    assert held_ids(harness) == before
    assert code_of(kms.encrypt, KeyId=imported, Plaintext=b"x") == "KMSInvalidStateException"
    assert code_of(kms.describe_key, KeyId=key_id) == "NotFoundException"
    move(-40)
    kms = harness.client()
    harness.tick()
    assert held_ids(harness) >= before  # wrapping keys are kept in stock again
    kms.cancel_key_deletion(KeyId=key_id)
    kms.enable_key(KeyId=key_id)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"
    kms.encrypt(KeyId=imported, Plaintext=b"x")


@pytest.mark.parametrize("restart", [False, True])
def test_forty_days_back_revives_nothing(harness: Harness, *, restart: bool) -> None:
    """Material that has expired and keys that are gone stay so, even while the token has not been told yet."""
    imported = import_until(harness, hours=1)
    key_id, blob = doomed_key(harness)
    harness.clock.advance(days=8)  # no tick: nothing was destroyed yet
    if restart:
        harness.restart()
    harness.run(harness.scheduler._acquire())
    if restart:
        harness.stop()
    harness.clock.set(days=-40)
    if restart:
        harness.start()
    kms = harness.client()
    assert code_of(kms.encrypt, KeyId=imported, Plaintext=b"x") == "KMSInvalidStateException"
    assert code_of(kms.describe_key, KeyId=key_id) == "NotFoundException"
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "AccessDeniedException"
    harness.tick()
    events = [record["eventName"] for record in harness.records()]
    assert {"DeleteKey", "DeleteExpiredKeyMaterial"} <= set(events), "what is due is destroyed, by the trusted instant"


def test_what_is_held_is_done_when_confirmed(harness: Harness) -> None:
    """As after a long stop: the operator says that the clock is right, and what is due goes."""
    key_id, _ = doomed_key(harness)
    before = held_ids(harness)
    harness.clock.set(days=40)
    harness.tick()
    assert held_ids(harness) == before
    confirm(harness)
    harness.tick()
    assert len(held_ids(harness)) == len(before) - 1
    assert [r["serviceEventDetails"]["keyId"] for r in harness.records() if r["eventName"] == "DeleteKey"] == [key_id]


def confirm(harness: Harness) -> None:
    """As `kmsd jobs confirm-clock` does, by the harness's own clock."""
    from kmsd.domain.trusted_time import Uptime, confirmed  # noqa: PLC0415

    async def write() -> None:
        async with harness.components.store.write() as transaction:
            reading = confirmed(harness.clock.now(), Uptime(harness.components.watch.boot, harness.clock.uptime()))
            await transaction.put_clock_reading(reading)

    harness.run(write())


def test_creeping_forward(harness: Harness) -> None:
    """Half an hour a tick gets as far as one hour."""
    doomed_key(harness)
    before = held_ids(harness)
    for _ in range(8 * 48):
        harness.clock.set(minutes=30)
        harness.run(harness.scheduler._acquire())
    harness.tick()
    assert held_ids(harness) == before


def test_a_lease_from_the_future_is_void(harness: Harness) -> None:
    """Its holder took it while the clock was ahead, and died: the jobs of others go on when the clock is right."""
    harness.clock.set(days=40)
    harness.tick()
    harness.clock.set(days=-40)
    components = harness.components
    other = Scheduler(
        components.store, components.tokens, components.watch, components.record_job, "other", watch=components.watch
    )
    assert harness.run(other._acquire()).of_database is True


DAY = 86_400


def wait_for(daemon: Daemon, words: str, count: int = 1) -> None:
    """Until the log says it so often."""
    eventually(lambda: daemon.log().count(words) >= count, daemon)


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_a_real_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own, whose CLOCK_REALTIME is set: held, told to the operator, and confirmed."""
    with provisioned(tmp_path, workers=2) as daemon:
        host_clock.use(daemon, host_clock.build(tmp_path), monkeypatch)
        daemon.start()
        kms: Any = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
        assert b"agrees with the host's uptime" in daemon.cli("check", "--no-token").stdout
        daemon.stop()
        host_clock.set_clock(daemon, 40 * DAY)
        daemon.start()
        wait_for(daemon, "destructive_jobs_suspended")
        assert b"destructive jobs are held: the clock was set 3456" in daemon.cli("check", "--no-token").stdout
        daemon.stop()
        assert b'"eventName":"DeleteKey"' not in b"".join(p.read_bytes() for p in daemon.data.glob("audit/*.trail"))
        daemon.cli("jobs", "confirm-clock")
        host_clock.set_clock(daemon, 40 * DAY + 120)  # within what is believed
        daemon.start()
        wait_for(daemon, '"job": "deletion"')
        names = [record["eventName"] for record in daemon.audit_records()]
        assert names.count("DeleteKey") == 1
        assert "ConfirmClock" in names
        host_clock.set_clock(daemon, 0)
        assert b"set 3456" in daemon.cli("check", "--no-token").stdout
        daemon.cli("audit", "verify")


def test_nothing_is_destroyed_earlier_than_another_node_would_allow(harness: Harness) -> None:
    """Its clock, as it has stored it, is behind: what is due here waits until it is due there, too."""
    key_id, _ = doomed_key(harness)
    before = held_ids(harness)
    harness.clock.advance(days=8)

    harness.run(harness.scheduler._acquire())
    with clock_of_other_node(harness, days=1.1):
        harness.tick()
    assert held_ids(harness) == before
    with clock_of_other_node(harness, days=0.9):
        harness.tick()
    assert len(held_ids(harness)) == len(before) - 1
    assert [r["serviceEventDetails"]["keyId"] for r in harness.records() if r["eventName"] == "DeleteKey"] == [key_id]
