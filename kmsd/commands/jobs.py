"""`kmsd jobs run NAME`: carry out a job now."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from kmsd import host_clock
from kmsd.app import SystemClock
from kmsd.commands.acts import KMSD, acting
from kmsd.config import Config
from kmsd.domain.trusted_time import Uptime, confirmed, judge
from kmsd.domain.wrapping import TokenName
from kmsd.jobs import reconcile


def add_to(commands: Any) -> None:
    """Declare the command."""
    jobs = commands.add_parser("jobs", help="carry out jobs").add_subparsers(dest="act", required=True)
    run: argparse.ArgumentParser = jobs.add_parser("run", help="carry out one job now")
    run.add_argument("job", choices=("reconcile",))
    run.set_defaults(run=run_job)
    confirm = jobs.add_parser("confirm-clock", help="the clock is right: let jobs destroy what is due by it")
    confirm.set_defaults(run=confirm_clock)


async def confirm_clock(config: Config, _: argparse.Namespace) -> int:
    """Believe the clock as it is now; a running daemon does within 15 seconds. Recorded, with what it was before."""
    async with acting(config, "ConfirmClock", {}, source=KMSD) as (rooms, act):
        async with rooms.store.write() as transaction:
            uptime, wall = Uptime(host_clock.boot(), host_clock.uptime()), SystemClock().now()
            before = judge(await transaction.clock_reading(), wall, uptime)
            await transaction.put_clock_reading(confirmed(wall, uptime))
        act.elements = {"confirmedAt": wall.isoformat(), "aheadSeconds": round(before.ahead.total_seconds())}
    print(f"the clock is taken to be right: {wall:%Y-%m-%d %H:%M:%S} UTC")
    if before.held or before.behind:
        seconds = before.ahead.total_seconds()
        print(f"it was {abs(seconds):.0f} s {'ahead of' if before.held else 'behind'} what was believed")
    return 0


async def run_job(config: Config, options: argparse.Namespace) -> int:
    """Print what was found and done; status 1 if something needs the operator."""
    async with acting(config, "RunJob", {"job": options.job}, source=KMSD) as (rooms, act):
        now, grace = SystemClock().now(), timedelta(minutes=10)
        report = await reconcile.run_once(rooms.store, rooms.token, now, grace=grace)
        if rooms.import_token is not None:
            report.add(
                await reconcile.run_once(rooms.store, rooms.import_token, now, grace=grace, name=TokenName.IMPORT)
            )
        act.elements = {
            name: [object_id.hex() for object_id in getattr(report, name)]
            for name in ("undone", "destroyed", "missing", "returned")
            if getattr(report, name)
        }
    for title, object_ids in (
        ("unfinished intent taken back", report.undone),
        ("destruction carried out", report.destroyed),
        ("MISSING in the token", report.missing),
        ("found again", report.returned),
    ):
        for object_id in object_ids:
            print(f"{title}: {object_id.hex()}")
    for title, found in (("not in the database", report.unknown), ("malformed", report.malformed)):
        for item in found:
            print(f"{title}: {item.kind} {item.object_id.hex()} {item.problem}".rstrip())
    for failure in report.failed:
        print(f"FAILED: {failure}")
    return 1 if report.missing or report.malformed or report.failed else 0
