"""`kmsd jobs run`: one job at once, beside the scheduler's own, by the same rules; and the leases of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from kmsd.jobs import scheduler
from kmsd.jobs.scheduler import LEASE, RUNNING, Job, JobRefused, Scheduler
from kmsd.ports.jobs import JobReport
from tests.support.daemon import Daemon, eventually, provisioned
from tests.support.dated_keys import doomed_key, import_until
from tests.support.harness import House, house
from tests.support.log_service import put, stream_for


@pytest.fixture(name="house", scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house")) as found:
        found.tick()
        yield found


def by_hand(house: House, holder: str = "by hand") -> Scheduler:
    """What the command makes."""
    components = house.components
    return Scheduler(
        components.store,
        components.tokens,
        components.watch,
        components.record_job,
        holder,
        retention=components.retention,
        watch=components.watch,
    )


def run(house: House, job: Job) -> JobReport:
    """Run a job as the command does."""
    return house.run(by_hand(house).run_now(job))


def rotating(house: House) -> str:
    """A key that is to be rotated in ninety days."""
    kms = house.client()
    key_id: str = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    return key_id


MAKERS: dict[Job, tuple[Callable[[House], str], int, str, str]] = {
    Job.ROTATION: (rotating, 91, "rotated", "RotateKey"),
    Job.DELETION: (lambda house: doomed_key(house)[0], 8, "deleted", "DeleteKey"),
    Job.EXPIRY: (lambda house: import_until(house, hours=1), 1, "expired", "DeleteExpiredKeyMaterial"),
}
"""How to make a key for a job, after how many days it is due, and how report and record name what is done."""


@pytest.mark.parametrize("job", MAKERS)
def test_what_is_due_is_done_and_recorded(house: House, job: Job) -> None:
    """More keys than one run takes on; as the scheduled job records it; a second time there is nothing to do."""
    make, days, member, event = MAKERS[job]
    with patch(f"kmsd.jobs.{job.value}.BATCH", 1):
        keys = {make(house) for _ in range(3)}
        run(house, job)
        house.clock.advance(days=days)
        done = getattr(run(house, job), member)
    assert {arn.rpartition("/")[2] for arn in done} == keys
    recorded = [record for record in house.records() if record["eventName"] == event]
    assert {record["serviceEventDetails"]["keyId"] for record in recorded} >= keys
    assert not any(run(house, job).counts().values())


def test_retention_by_hand(house: House) -> None:
    """What nobody can read any more leaves the disk."""
    logs = house.client("logs")
    stream_for(logs, "/by/hand")
    now = round(house.clock.now().timestamp() * 1000)
    put(logs, "/by/hand", "old", at=now)
    logs.put_retention_policy(logGroupName="/by/hand", retentionInDays=1)
    house.clock.advance(days=2)
    house.run(house.components.segments.maintain(round(house.clock.now().timestamp() * 1000)))
    report = run(house, Job.RETENTION)
    assert report.counts()["removed"] + report.counts()["rewritten"] > 0
    assert not any(run(house, Job.RETENTION).counts().values())


def test_reconcile_by_hand(house: House) -> None:
    """A healthy token has nothing to settle."""
    assert not any(run(house, Job.RECONCILE).counts().values())


def test_a_doubtful_clock_holds_what_destroys(house: House) -> None:
    """As it holds the scheduler; rotation goes on."""
    key_id, _ = doomed_key(house)
    house.clock.set(days=40)
    try:
        for job in (Job.DELETION, Job.EXPIRY, Job.RETENTION):
            with pytest.raises(JobRefused, match="confirm-clock"):
                run(house, job)
        run(house, Job.ROTATION)
    finally:
        house.clock.set(days=-40)
    assert run(house, Job.DELETION).counts()["deleted"] == 0
    house.client().cancel_key_deletion(KeyId=key_id)


def test_scheduler_and_command_wait_for_each_other(house: House) -> None:
    """While one of them runs jobs, the other runs none."""
    key_id, _ = doomed_key(house)
    house.clock.advance(days=8)
    first = by_hand(house, "first")
    assert house.run(first._run_turn())
    house.tick()
    with patch.object(scheduler, "PATIENCE_SECONDS", 0.3), pytest.raises(JobRefused, match="another process"):
        run(house, Job.DELETION)
    house.run(first._release(RUNNING))
    (deleted,) = run(house, Job.DELETION).deleted  # type: ignore[attr-defined]
    assert deleted.endswith(key_id)


HOLD = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.app import SystemClock

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    async with store.write() as transaction:
        now = SystemClock().now() + timedelta(days=float(sys.argv[2]))
        for name in sys.argv[3:]:
            assert await transaction.acquire_lease(name, "another host:1:0", now, now + timedelta(seconds=90))
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_the_lease_of_a_process_that_ended_is_free(tmp_path: Path) -> None:
    """At once, however it ended; that of one which lives is not."""
    with house(tmp_path) as found:
        command = [sys.executable, "-c", HOLD, str(found.config.database), "0", LEASE, RUNNING]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert not found.run(found.scheduler._acquire())
            process.kill()
            process.wait()
        assert found.run(found.scheduler._acquire())


def reconciles(daemon: Daemon) -> int:
    """How often that job has run, by the log."""
    return daemon.log().count('"job": "reconcile"')


def test_the_command_line(tmp_path: Path) -> None:
    """It says what was done, or that there was nothing to do; and after a crash the daemon reconciles as it starts."""
    with provisioned(tmp_path, workers=1) as daemon:
        daemon.start()
        daemon.kill()
        before = reconciles(daemon)
        daemon.start()
        # Its first look at what is due: with the lease of the process before in force it would find nothing for 90 s.
        eventually(lambda: reconciles(daemon) == before + 1, daemon, 30)
        daemon.stop()
        for job in Job:
            done = daemon.cli("jobs", "run", job.value)
            assert done.stdout == f"{job.value}: there was nothing to do\n".encode()
        run_jobs = [record for record in daemon.audit_records() if record["eventName"] == "RunJob"]
        assert [record["requestParameters"]["job"] for record in run_jobs[::2]] == [job.value for job in Job]
