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
from tests.support.harness import Harness, harness
from tests.support.log_service import put, stream_for


@pytest.fixture(name="harness", scope="module")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("harness")) as found:
        found.tick()
        yield found


def by_hand(harness: Harness, holder: str = "by hand") -> Scheduler:
    """What the command makes."""
    components = harness.components
    return Scheduler(
        components.store,
        components.tokens,
        components.watch,
        components.record_job,
        holder,
        retention=components.retention,
        watch=components.watch,
    )


def run(harness: Harness, job: Job) -> JobReport:
    """Run a job as the command does."""
    return harness.run(by_hand(harness).run_now(job))


def rotating(harness: Harness) -> str:
    """A key that is to be rotated in ninety days."""
    kms = harness.client()
    key_id: str = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    return key_id


MAKERS: dict[Job, tuple[Callable[[Harness], str], int, str, str]] = {
    Job.ROTATION: (rotating, 91, "rotated", "RotateKey"),
    Job.DELETION: (lambda harness: doomed_key(harness)[0], 8, "deleted", "DeleteKey"),
    Job.EXPIRY: (lambda harness: import_until(harness, hours=1), 1, "expired", "DeleteExpiredKeyMaterial"),
}
"""How to make a key for a job, after how many days it is due, and how report and record name what is done."""


@pytest.mark.parametrize("job", MAKERS)
def test_what_is_due_is_done_and_recorded(harness: Harness, job: Job) -> None:
    """More keys than one run takes on; as the scheduled job records it; a second time there is nothing to do."""
    make, days, member, event = MAKERS[job]
    with patch(f"kmsd.jobs.{job.value}.BATCH", 1):
        keys = {make(harness) for _ in range(3)}
        run(harness, job)
        harness.clock.advance(days=days)
        done = getattr(run(harness, job), member)
    assert {arn.rpartition("/")[2] for arn in done} == keys
    recorded = [record for record in harness.records() if record["eventName"] == event]
    assert {record["serviceEventDetails"]["keyId"] for record in recorded} >= keys
    assert not any(run(harness, job).counts().values())


def test_retention_by_hand(harness: Harness) -> None:
    """What nobody can read any more leaves the disk."""
    logs = harness.client("logs")
    stream_for(logs, "/by/hand")
    now = round(harness.clock.now().timestamp() * 1000)
    put(logs, "/by/hand", "old", at=now)
    logs.put_retention_policy(logGroupName="/by/hand", retentionInDays=1)
    harness.clock.advance(days=2)
    harness.run(harness.components.segments.maintain(round(harness.clock.now().timestamp() * 1000)))
    report = run(harness, Job.RETENTION)
    assert report.counts()["removed"] + report.counts()["rewritten"] > 0
    assert not any(run(harness, Job.RETENTION).counts().values())


def test_reconcile_by_hand(harness: Harness) -> None:
    """A healthy token has nothing to settle."""
    assert not any(run(harness, Job.RECONCILE).counts().values())


def test_a_doubtful_clock_holds_what_destroys(harness: Harness) -> None:
    """As it holds the scheduler; rotation goes on."""
    key_id, _ = doomed_key(harness)
    harness.clock.set(days=40)
    try:
        for job in (Job.DELETION, Job.EXPIRY, Job.RETENTION):
            with pytest.raises(JobRefused, match="confirm-clock"):
                run(harness, job)
        run(harness, Job.ROTATION)
    finally:
        harness.clock.set(days=-40)
    assert run(harness, Job.DELETION).counts()["deleted"] == 0
    harness.client().cancel_key_deletion(KeyId=key_id)


def test_scheduler_and_command_wait_for_each_other(harness: Harness) -> None:
    """While one of them runs jobs, the other runs none."""
    key_id, _ = doomed_key(harness)
    harness.clock.advance(days=8)
    first = by_hand(harness, "first")
    assert harness.run(first._run_turn(Job.DELETION))
    harness.tick()
    with patch.object(scheduler, "PATIENCE_SECONDS", 0.3), pytest.raises(JobRefused, match="another process"):
        run(harness, Job.DELETION)
    harness.run(first._release(RUNNING))
    (deleted,) = run(harness, Job.DELETION).deleted  # type: ignore[attr-defined]
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
    # Objects, for a key ceremony is impossible while the other daemon of this process is logged in.
    with harness(tmp_path, custody="object") as found:
        command = [sys.executable, "-c", HOLD, str(found.config.database), "0", LEASE, RUNNING]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert not found.run(found.scheduler._acquire()).of_database
            process.kill()
            process.wait()
        assert found.run(found.scheduler._acquire()).of_database


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
