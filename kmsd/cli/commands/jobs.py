"""`kmsd jobs`: run a job now, or confirm the clock."""

from __future__ import annotations

import argparse
import os
import socket
from typing import Any

from kmsd.app import Components, SystemClock
from kmsd.cli.commands.operator_audit import KMSD, acting
from kmsd.cli.progress import shown
from kmsd.config.sections import Config
from kmsd.domain.domain_key import DomainKeyState
from kmsd.domain.trusted_time import Uptime, assess, confirmed
from kmsd.exit_codes import TryLater
from kmsd.jobs.scheduler import Job, JobRefused, Scheduler
from kmsd.linux import boot_clock
from kmsd.ports import ObjectReport

TITLES = {
    "rotated": "rotated",
    "expired": "key material expired",
    "deleted": "deleted",
    "removed": "log events removed from group",
    "rewritten": "segments rewritten in group",
    "queries": "query forgotten",
    "undone": "unfinished intent taken back",
    "destroyed": "destruction carried out",
    "missing": "MISSING in the token",
    "domain_keys_missing": "DOMAIN KEY MISSING in the token",
    "tampered": "row of wrapped material CHANGED",
    "rewrapped": "rewrapped",
    "returned": "found again",
    "unknown": "not in the database",
    "malformed": "malformed",
    "failed": "FAILED",
}
"""Text printed before each entry, by member of a report."""
FOUND = ("unknown", "malformed", "failed")
"""Members for objects that were found and left alone; the command's audit record has the other members."""
MAX_RECORDED = 100
"""Maximum names of each kind in the command's audit record. Each change of a key has its own record."""
ALARMS = ("missing", "domain_keys_missing", "tampered", "malformed", "failed")
"""Members that need the operator."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    jobs = commands.add_parser("jobs", help="carry out jobs").add_subparsers(dest="act", required=True)
    run: argparse.ArgumentParser = jobs.add_parser("run", help="carry out one job now")
    run.add_argument("job", choices=[job.value for job in Job])
    run.set_defaults(run=run_job)
    confirm = jobs.add_parser("confirm-clock", help="the clock is right: let jobs destroy what is due by it")
    confirm.set_defaults(run=confirm_clock)


async def confirm_clock(config: Config, _: argparse.Namespace) -> int:
    """Trust the clock as it is now; a running daemon follows within 15 seconds. Recorded with the previous skew."""
    async with acting(config, "ConfirmClock", {}, source=KMSD) as (components, act):
        async with components.store.write() as transaction:
            uptime, wall = Uptime(boot_clock.boot_id(), boot_clock.uptime()), SystemClock().now()
            before = assess(await transaction.clock_reading(), wall, uptime)
            await transaction.put_clock_reading(confirmed(wall, uptime))
        act.elements = {"confirmedAt": wall.isoformat(), "aheadSeconds": round(before.skew.total_seconds())}
    print(f"the clock is taken to be right: {wall:%Y-%m-%d %H:%M:%S} UTC")
    if before.suspended or before.behind:
        seconds = before.skew.total_seconds()
        print(f"it was {abs(seconds):.0f} s {'ahead of' if before.suspended else 'behind'} what was believed")
    return 0


async def run_job(config: Config, options: argparse.Namespace) -> int:
    """Run the job and print its report. Return 1 if something needs the operator."""
    try:
        async with acting(config, "RunJob", {"job": options.job}, source=KMSD) as (components, act):
            with shown(options.job, await _due(components, Job(options.job)), "done") as advance:
                report = await _scheduler(components).run_now(Job(options.job), advance)
            act.elements = {
                name: [_shown(found) for found in getattr(report, name)[:MAX_RECORDED]]
                for name in report.__struct_fields__
                if name not in FOUND and getattr(report, name)
            }
            act.elements["counts"] = report.counts()
    except JobRefused as exc:
        raise TryLater(str(exc)) from exc
    lines = [f"{title}: {_shown(found)}" for name, title in TITLES.items() for found in getattr(report, name, ())]
    print("\n".join(lines or [f"{options.job}: there was nothing to do"]))
    return 1 if any(getattr(report, name, ()) for name in ALARMS) else 0


def _scheduler(components: Components) -> Scheduler:
    return Scheduler(
        components.store,
        components.tokens,
        components.pipeline.clock,
        components.record_job,
        f"{socket.gethostname()}:{os.getpid()}:cli",
        retention=components.retention,
        watch=components.watch,
    )


async def _due(components: Components, job: Job) -> int | None:
    """Return how much there is to do; None if only the job finds out."""
    if job is not Job.REWRAP:
        return None
    reader = await components.store.read()
    counts = await reader.wrapped_counts()
    retiring = [one for one in await reader.domain_keys() if one.state is DomainKeyState.RETIRING]
    return sum(counts.get(one.domain_key_id, 0) for one in retiring)


def _shown(found: object) -> str:
    if isinstance(found, ObjectReport):
        return f"{found.kind} {found.object_id.hex()} {found.problem}".rstrip()
    return found.hex() if isinstance(found, bytes) else str(found)
