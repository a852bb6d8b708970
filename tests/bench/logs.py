"""Ingestion and read-back of log events, against moto's server on the same machine in the same run.

    .venv/bin/python -m tests.bench.logs [--seconds 8] [--connections 64] [--rounds 3] [--moto VENV] [--postgresql]

Batches of 100 events of 1 KiB. With `--postgresql` also through a PostgreSQL on this machine, which syncs as it does by
default. All servers get the same bytes from the same load generator, wrk: requests are signed
beforehand, so that what is measured is the server. moto is installed into a virtual environment of its own, which is
removed in the end unless it is named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import wrk
from tests.support.clients import Credentials, client
from tests.support.daemon import free_port, provisioned
from tests.support.log_service import arn_of, key_policy
from tests.support.postgres import Cluster, new_cluster

EVENTS, SIZE = 100, 1024
BATCHES_READ = 200
GROUP = "/bench"


@dataclass
class Site:
    """A server under load."""

    name: str
    port: int
    credentials: Credentials
    pid: int

    def logs(self) -> Any:
        """A stock client."""
        return client(f"http://127.0.0.1:{self.port}", self.credentials, "logs", read_timeout=120)

    def request(self, operation: str, members: dict[str, Any]) -> wrk.Replay:
        """A whole signed request."""
        return wrk.signed(f"http://127.0.0.1:{self.port}", self.credentials, operation, members, service="logs")

    def cpu(self) -> float:
        """Seconds of processor time that the server and the processes that it started have had."""
        return sum(_cpu(pid) for pid in (self.pid, *_children(self.pid)))


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, found) for each in (child, *_children(child))]


def _cpu(pid: int) -> float:
    """User and system time; the name of a process may hold blanks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Rate:
    """What a load came to."""

    events: float
    """A second."""
    micros: float
    """Processor time of the server for each request."""


def line(number: int) -> str:
    """A line of a web server's log, 1 KiB, as compressible as such lines are."""
    words = " ".join(
        hashlib.sha256(f"{number} {index % 7}".encode()).hexdigest()[: 3 + index % 9] for index in range(150)
    )
    text = json.dumps(
        {
            "time": f"2026-11-22T06:10:{number % 60:02d}.{number * 7919 % 1_000_000:06d}Z",
            "level": "info",
            "request": os.urandom(16).hex(),
            "method": "GET",
            "path": f"/api/v1/items/{number % 50}",
            "status": 200,
            "message": words,
        }
    )
    return text[:SIZE].ljust(SIZE, ".")


def batch(stream: str, begin: int) -> dict[str, Any]:
    """Members of PutLogEvents: events of one stream from one millisecond on."""
    events = [{"timestamp": begin + index, "message": line(index)} for index in range(EVENTS)]
    return {"logGroupName": GROUP, "logStreamName": stream, "logEvents": events}


def load(site: Site, replays: Sequence[wrk.Replay], events: float, connections: int, seconds: float) -> Rate:
    """Repeat requests in turn, each of which moves so many events."""
    before = site.cpu()
    result = wrk.run(replays, connections=connections, seconds=seconds)
    if site.name != "moto" and result.errors:
        raise SystemExit(f"{result.errors} errors")
    return Rate(result.per_second * events, (site.cpu() - before) * 1e6 / (result.per_second * seconds))


def pages(site: Site, stream: str) -> tuple[list[wrk.Replay], float]:
    """A request for each page of a stream, from its head, and how many events a page has."""
    logs, members, replays, events = site.logs(), {"logGroupName": GROUP, "logStreamName": stream}, [], 0
    token: dict[str, Any] = {"startFromHead": True}
    while found := (answer := logs.get_log_events(**members, **token))["events"]:
        replays.append(site.request("GetLogEvents", {**members, **token}))
        events += len(found)
        token = {"nextToken": answer["nextForwardToken"], "startFromHead": True}
    assert events == BATCHES_READ * EVENTS, f"{events} events in the stream"
    return replays, events / len(replays)


def install_moto(place: Path) -> None:
    """Moto's server, unless it is there."""
    if not (place / "bin" / "moto_server").exists():
        venv.create(place, with_pip=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "-q", "moto[server]"], check=True)


@contextmanager
def moto(place: Path) -> Iterator[Site]:
    """Moto's server."""
    port = free_port()
    process = subprocess.Popen(
        [str(place / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Site("moto", port, Credentials("a", "b"), process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def kmsd(workers: int, server: Cluster | None, *, associated: bool) -> Iterator[Site]:
    """The daemon, with a key of the customer's for the group; on SQLite and files, or on a server."""
    extra = "" if server is None else f'[store]\nurl = "{server.url()}"\n'
    with (
        tempfile.TemporaryDirectory() as folder,
        provisioned(Path(folder), workers=workers, extra=extra) as daemon,
    ):
        daemon.start()
        assert daemon.process is not None
        name = "kmsd" if server is None else "kmsd on PostgreSQL"
        site = Site(name, daemon.port, daemon.admin, daemon.process.pid)
        if associated:
            key = daemon.client().create_key(Policy=key_policy(arn_of(GROUP)))["KeyMetadata"]["Arn"]
            site.logs().create_log_group(logGroupName=GROUP, kmsKeyId=key)
        yield site
        if server is None:
            size = sum(path.stat().st_size for path in (daemon.data / "logs").rglob("*") if path.is_file())
            print(f"   kmsd keeps {size / 1e6:.0f} MB in segments")


def measure(make: Callable[[], Any], options: argparse.Namespace) -> tuple[Rate, Rate]:
    """What is ingested, and what is read back."""
    with make() as site:
        logs = site.logs()
        if not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
            logs.create_log_group(logGroupName=GROUP)
        streams = [f"s{index}" for index in range(options.connections)]
        for stream in [*streams, "read"]:
            logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        now = int(time.time() * 1000)
        # As many events for both, put one batch after the other.
        for number in range(BATCHES_READ):
            logs.put_log_events(**batch("read", now - 100_000 + number * EVENTS))
        replays = [site.request("PutLogEvents", batch(stream, now)) for stream in streams]
        load(site, replays, EVENTS, options.connections, 1)
        ingested = load(site, replays, EVENTS, options.connections, options.seconds)
        replays, events = pages(site, "read")
        read = load(site, replays, events, options.readers, options.seconds)
        print(
            f"   {site.name}: {ingested.events:,.0f} events/s in, {ingested.micros:,.0f} us a batch; "
            f"{read.events:,.0f} events/s out, {read.micros:,.0f} us a page of {events:,.0f}"
        )
        return ingested, read


def main() -> None:
    """Print ratios, the median of interleaved rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--service-key", action="store_true", help="without an association")
    parser.add_argument("--postgresql", action="store_true", help="also on PostgreSQL")
    parser.add_argument("--moto", type=Path, help="a virtual environment to install moto into and to keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.moto or Path(folder)
        install_moto(place)
        compare(options, place)


def compare(options: argparse.Namespace, place: Path) -> None:
    """Interleaved rounds."""
    servers = {"kmsd": None, **({"kmsd on PostgreSQL": new_cluster()} if options.postgresql else {})}
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    try:
        for number in range(options.rounds):
            print(f"round {number + 1}, {options.connections} connections")
            theirs = measure(lambda: moto(place), options)
            for name, server in servers.items():
                ours = measure(partial(kmsd, options.workers, server, associated=not options.service_key), options)
                ratios[name].append((ours[0].events / theirs[0].events, ours[1].events / theirs[1].events))
    finally:
        for server in servers.values():
            if server is not None:
                server.stop()
    for name, found in ratios.items():
        into, out = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name}: in {into:.1f} x moto; out {out:.1f} x moto")


if __name__ == "__main__":
    main()
