"""Ingestion and read-back of log events, against moto's server on the same machine in the same run.

    .venv/bin/python -m tests.bench.logs [--seconds 8] [--connections 16] [--rounds 3] [--moto VENV]

Batches of 100 events of 1 KiB. Both servers get the same bytes from the same load generator: requests are signed
beforehand, so that what is measured is the server. moto is installed into a virtual environment of its own, which is
removed in the end unless it is named.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.clients import REGION, Credentials, client
from tests.daemon import free_port, provisioned
from tests.logs import arn_of, key_policy

EVENTS, SIZE = 100, 1024
GROUP = "/bench"


@dataclass
class Site:
    """A server under load."""

    name: str
    port: int
    credentials: Credentials

    def logs(self) -> Any:
        """A stock client."""
        return client(f"http://127.0.0.1:{self.port}", self.credentials, "logs", read_timeout=120)

    def request(self, operation: str, members: dict[str, Any]) -> bytes:
        """A whole signed request."""
        body = json.dumps(members).encode()
        now = datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        host, target = f"127.0.0.1:{self.port}", f"Logs_20140328.{operation}"
        names = "host;x-amz-date;x-amz-target"
        digest = hashlib.sha256(body).hexdigest()
        canonical = f"POST\n/\n\nhost:{host}\nx-amz-date:{stamp}\nx-amz-target:{target}\n\n{names}\n{digest}"
        scope = f"{day}/{REGION}/logs/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self.credentials.secret.encode()
        for part in (day, REGION, "logs", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={self.credentials.access_key_id}/{scope}"
        head = (
            f"POST / HTTP/1.1\r\nHost: {host}\r\nX-Amz-Date: {stamp}\r\nX-Amz-Target: {target}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}\r\n"
            f"Content-Type: application/x-amz-json-1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Line:
    """One connection; made anew when the server closes it, as moto's does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._file: Any = None

    def ask(self, request: bytes) -> bytes:
        """The body of the answer, which must be a success."""
        while True:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port))
                self._file = self._socket.makefile("rb")
            try:
                self._socket.sendall(request)
                status = self._file.readline()
            except OSError:
                status = b""
            if status:
                break
            self.close()
        length, closing = 0, False
        while (header := self._file.readline().lower()) not in (b"\r\n", b""):
            length = int(header[15:]) if header.startswith(b"content-length:") else length
            closing = closing or header.startswith(b"connection: close")
        body: bytes = self._file.read(length)
        if b" 200 " not in status:
            raise SystemExit(f"{status!r} {body[:300]!r}")
        if closing:
            self.close()
        return body

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            self._file.close()
            self._socket.close()
            self._socket = None


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


def ingest(site: Site, streams: list[str], seconds: float) -> float:
    """Events a second over all connections, each with a stream of its own."""
    now = int(time.time() * 1000)
    requests = [
        site.request(
            "PutLogEvents",
            {
                "logGroupName": GROUP,
                "logStreamName": stream,
                "logEvents": [{"timestamp": now + index, "message": line(index)} for index in range(EVENTS)],
            },
        )
        for stream in streams
    ]
    counts = [0] * len(streams)
    until = time.monotonic() + seconds

    def work(index: int) -> None:
        connection = Line(site.port)
        while time.monotonic() < until:
            connection.ask(requests[index])
            counts[index] += 1
        connection.close()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(streams))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * EVENTS / (time.monotonic() - began)


def read_back(site: Site, stream: str, seconds: float, readers: int) -> float:
    """Events a second that so many readers of one stream get together."""
    with ThreadPoolExecutor(readers) as threads:
        return sum(threads.map(lambda _: read_pages(site, stream, seconds), range(readers)))


def read_pages(site: Site, stream: str, seconds: float) -> float:
    """Events a second of one stream, read page by page from its head as often as there is time."""
    connection, token, events = Line(site.port), None, 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        members = {"logGroupName": GROUP, "logStreamName": stream, "startFromHead": True}
        answer = connection.ask(site.request("GetLogEvents", {**members, "nextToken": token} if token else members))
        found = answer.count(b'"ingestionTime"')
        events += found
        # The tokens stand at the end; to parse the rest would measure the parser.
        tail = (
            answer[answer.rindex(b"]") :] if answer.rindex(b"]") > answer.rindex(b"nextForwardToken") - 200 else answer
        )
        token = tail.split(b'"nextForwardToken"')[1].split(b'"')[1].decode() if found else None
    connection.close()
    return events / (time.monotonic() - began)


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
        yield Site("moto", port, Credentials("a", "b"))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def kmsd(workers: int, *, associated: bool) -> Iterator[Site]:
    """The daemon, with a key of the customer's for the group."""
    with (
        tempfile.TemporaryDirectory() as folder,
        provisioned(Path(folder), workers=workers) as daemon,
    ):
        daemon.start()
        site = Site("kmsd", daemon.port, daemon.admin)
        if associated:
            key = daemon.client().create_key(Policy=key_policy(arn_of(GROUP)))["KeyMetadata"]["Arn"]
            site.logs().create_log_group(logGroupName=GROUP, kmsKeyId=key)
        yield site
        size = sum(path.stat().st_size for path in (daemon.data / "logs").rglob("*") if path.is_file())
        print(f"   kmsd keeps {size / 1e6:.0f} MB in segments")


def measure(make: Callable[[], Any], connections: int, seconds: float, readers: int) -> tuple[float, float]:
    """(ingested, read back), events a second."""
    with make() as site:
        logs = site.logs()
        if not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
            logs.create_log_group(logGroupName=GROUP)
        streams = [f"s{index}" for index in range(connections)]
        for stream in [*streams, "read"]:
            logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        ingest(site, streams[:1], 0.5)
        ingested = ingest(site, streams, seconds)
        # As many events for both: 20 000, put one batch after the other.
        now, connection = int(time.time() * 1000) - 100_000, Line(site.port)
        for batch in range(200):
            events = [{"timestamp": now + batch * EVENTS + index, "message": line(index)} for index in range(EVENTS)]
            connection.ask(
                site.request("PutLogEvents", {"logGroupName": GROUP, "logStreamName": "read", "logEvents": events})
            )
        connection.close()
        read = read_back(site, "read", seconds, readers)
        print(f"   {site.name}: {ingested:,.0f} events/s in, {read:,.0f} events/s out")
        return ingested, read


def main() -> None:
    """Print ratios, the median of interleaved rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--service-key", action="store_true", help="without an association")
    parser.add_argument("--moto", type=Path, help="a virtual environment to install moto into and to keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.moto or Path(folder)
        install_moto(place)
        compare(options, place)


def compare(options: argparse.Namespace, place: Path) -> None:
    """Interleaved rounds."""
    ratios_in, ratios_out = [], []
    for number in range(options.rounds):
        print(f"round {number + 1}, {options.connections} connections")
        load = (options.connections, options.seconds, options.readers)
        theirs = measure(lambda: moto(place), *load)
        ours = measure(lambda: kmsd(options.workers, associated=not options.service_key), *load)
        ratios_in.append(ours[0] / theirs[0])
        ratios_out.append(ours[1] / theirs[1])
    print(f"in: {statistics.median(ratios_in):.1f} x moto; out: {statistics.median(ratios_out):.1f} x moto")


if __name__ == "__main__":
    sys.exit(main())
