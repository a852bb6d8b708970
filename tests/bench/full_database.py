"""A PostgreSQL with the rows of 10,000,000 keys beside one with 1,000: calls, jobs and commands, in one run, in turn.

    .venv/bin/python -m tests.bench.full_database [--keys 10000000] [--grants 1000000] [--samples 300] [--out FILE]

Needs some 30 GB under TMPDIR, and a quarter of an hour to fill. Prints medians and ratios as JSON, then
these beside their aims.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

from tests.bench import full_rows, report
from tests.bench.scale import Caller
from tests.support.clients import ACCOUNT
from tests.support.daemon import Daemon, provisioned
from tests.support.postgres import Cluster, new_cluster

OWN = 400
"""Keys of each database that can be used."""
SMALL = 1_000
RETIRING = f"arn:aws:iam::{ACCOUNT}:user/retiring"
COMMANDS = (
    ("status",),
    *(("jobs", "run", job) for job in ("reconcile", "rotation", "expiry", "deletion", "rewrap")),
)
"""What operators and timers run, with a daemon beside."""


@dataclass
class Full:
    """One daemon, and what is asked of it."""

    daemon: Daemon
    database: str
    copies: int
    own: list[str]
    """Ids of the keys that can be used, each used once for a call that finds nothing in the cache."""
    middle: str = ""
    """Marker of ListKeys in the middle of all keys."""

    def random_key(self, chance: random.Random) -> str:
        """Id of one of the copies."""
        return str(uuid.UUID(md5(f"key{chance.randint(1, self.copies)}".encode()).hexdigest()))  # noqa: S324 (as the rows)


def provision(stack: ExitStack, folder: Path, server: Cluster, copies: int) -> Full:
    """A daemon with its own keys, all of them wrapped, and none of the copies yet."""
    folder.mkdir()
    database = server.database().url.database
    extra = (
        f'[store]\nurl = "postgresql://kmsd@/{database}?host={server.folder}"\n'
        f"[limits]\nkeys_per_account = {copies + 100_000}\n"
    )
    daemon = stack.enter_context(provisioned(folder, extra=extra, custody="wrapped"))
    daemon.start()
    kms = daemon.client()
    own = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(OWN)]
    page = kms.list_keys(Limit=OWN // 2)
    return Full(daemon, database, copies, own, page["NextMarker"])


def fill(server: Cluster, full: Full, grants: int) -> None:
    """Add the copies, while the daemon is stopped."""
    kms, key_id = full.daemon.client(), full.own[0]
    kms.create_alias(AliasName="alias/copied", TargetKeyId=key_id)
    grant = kms.create_grant(
        KeyId=key_id, GranteePrincipal=RETIRING, RetiringPrincipal=RETIRING, Operations=["Encrypt"]
    )["GrantId"]
    full.daemon.stop()
    rows = full_rows.Rows(key_id, grant, full.copies, grants, aliases=full.copies // 10)
    began = time.monotonic()
    full_rows.fill(server, full.database, rows)
    print(f"{full.copies} keys in {time.monotonic() - began:.0f} s", file=sys.stderr)


def calls(full: Full) -> Mapping[str, Callable[[random.Random], tuple[str, dict[str, Any]]]]:
    """Operation and members of each call that is measured."""
    own, warm = full.own, full.own[0]
    encrypt, grant = {"Plaintext": "eA=="}, {"GranteePrincipal": RETIRING, "Operations": ["Encrypt"]}
    return {
        "Encrypt": lambda _: ("Encrypt", {"KeyId": warm, **encrypt}),
        "Encrypt, not in the cache": lambda _: ("Encrypt", {"KeyId": own.pop(), **encrypt}),
        "DescribeKey": lambda _: ("DescribeKey", {"KeyId": warm}),
        "DescribeKey, not in the cache": lambda chance: ("DescribeKey", {"KeyId": full.random_key(chance)}),
        "ListKeys, first": lambda _: ("ListKeys", {"Limit": 100}),
        "ListKeys, middle": lambda _: ("ListKeys", {"Limit": 100, "Marker": full.middle}),
        "ListKeys, middle, 400": lambda _: ("ListKeys", {"Limit": 400, "Marker": full.middle}),
        "ListAliases": lambda _: ("ListAliases", {"Limit": 50}),
        "ListGrants": lambda _: ("ListGrants", {"KeyId": warm, "Limit": 5}),
        "ListRetirableGrants": lambda _: ("ListRetirableGrants", {"RetiringPrincipal": RETIRING, "Limit": 5}),
        "CreateGrant": lambda _: ("CreateGrant", {"KeyId": warm, **grant}),
        "CreateKey": lambda _: ("CreateKey", {}),
    }


def measure(sites: Mapping[str, Full], samples: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each call, one on each daemon in turn."""
    callers = {name: Caller(full.daemon) for name, full in sites.items()}
    made = {name: calls(full) for name, full in sites.items()}
    chance, medians_of = random.Random(1), {}  # noqa: S311 (which key, no secret)
    for what in made["small"]:
        taken: dict[str, list[float]] = {name: [] for name in sites}
        for number in range(samples + 20):
            for name, caller in callers.items():
                operation, members = made[name][what](chance)
                seconds, _ = caller.call(operation, **members)
                if number >= 20:  # the first ones warm up
                    taken[name].append(seconds)
        medians = {name: round(statistics.median(times) * 1e3, 3) for name, times in taken.items()}
        medians_of[what] = {**medians, "ratio": round(medians["full"] / medians["small"], 3)}
        print(what, medians_of[what], file=sys.stderr)
    return medians_of


def run(full: Full, arguments: tuple[str, ...]) -> dict[str, float]:
    """Seconds and MiB of a command, and its exit status."""
    command = [sys.executable, "-m", "kmsd", "--config", str(full.daemon.config), *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "MiB": round(usage.ru_maxrss / 1024, 1),
        "status": process.returncode,
    }


def resident(full: Full) -> float:
    """MiB of the largest worker so far."""
    peaks = [Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0] for pid in full.daemon.workers()]
    return round(max(map(int, peaks)) / 1024, 1)


def main() -> None:
    """Fill two databases of one server, measure their daemons in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--grants", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--pause", action="store_true", help="wait for a line on stdin before the end")
    report.add_options(parser, "full_database")
    options, load = parser.parse_args(), os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = new_cluster()
        stack.callback(server.stop)
        sites = {
            "small": provision(stack, folder / "small", server, SMALL - OWN),
            "full": provision(stack, folder / "full", server, options.keys - OWN),
        }
        full_rows.prepare(server)
        fill(server, sites["small"], SMALL)
        fill(server, sites["full"], options.grants)
        full_rows.finish(server)
        found: dict[str, Any] = {"bytes": {name: size(server, full) for name, full in sites.items()}}
        starts = {}
        for name, full in sites.items():
            began = time.monotonic()
            full.daemon.start()
            starts[name] = round(time.monotonic() - began, 2)
        found["start, seconds"] = starts
        found["commands"] = {
            " ".join(command): {name: run(full, command) for name, full in sites.items()} for command in COMMANDS
        }
        found["calls, ms"] = measure(sites, options.samples)
        found["largest worker, MiB"] = {name: resident(full) for name, full in sites.items()}
        report.finish(options, found, load, "keys", "grants", "samples")
        if options.pause:
            print(server.folder, {name: full.database for name, full in sites.items()}, file=sys.stderr)
            sys.stdin.readline()


def size(server: Cluster, full: Full) -> int:
    """Bytes of a database."""
    return int(server.run_sql(f"SELECT pg_database_size('{full.database}')"))


if __name__ == "__main__":
    main()
