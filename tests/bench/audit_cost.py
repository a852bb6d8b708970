"""What the durable trail costs: Encrypt with it, and with the sink replaced by nothing, in turn.

    .venv/bin/python -m tests.bench.audit_cost [--rounds 5] [--seconds 3] [--connections 1 8 64]

One worker process each, on the same token and database; medians of interleaved runs, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import resource
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, cast

import uvloop
from msgspec.structs import replace

from kmsd.app import open_components
from kmsd.config import settings as configuration
from kmsd.custody.credentials import CredentialStore
from kmsd.wire.endpoint import Endpoint
from kmsd.wire.http.listeners import bind_tcp
from kmsd.wire.http.server import Listener, serve
from kmsd.wire.readiness import Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4.claim import signing_key
from tests.bench import load, wrk
from tests.support.daemon import Daemon, provisioned

SIDES = ("audited", "nothing")


class NoSink:
    """Promises everything, keeps nothing. Never part of the product."""

    async def append(self, record: bytes) -> None:
        """Forget it."""

    async def check(self) -> None:
        """All is well."""

    async def close(self) -> None:
        """Nothing to do."""


async def questions(pipe: Pipe) -> AsyncIterator[None]:
    """Once for each message of the parent's, until it says stop; on the running loop."""
    wanted = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), wanted.set)
    while True:
        await wanted.wait()
        wanted.clear()
        if pipe.recv() == "stop":
            return
        yield


async def _serve(path: Path, writer: str, pipe: Pipe, *, audited: bool) -> None:
    async with open_components(configuration.load(path), writer) as components:
        pipeline = components.pipeline if audited else replace(components.pipeline, sink=NoSink())
        arns = pipeline.dependencies.arns
        refusals = RefusedRequestLog(pipeline.sink, arns)
        front = Endpoint(pipeline, CredentialStore(components.token, arns, signing_key), Readiness({}), refusals)
        sock = bind_tcp("127.0.0.1", 0)
        server = await serve(front.handle, [Listener(sock)], cohorts=pipeline.cohorts)
        pipe.send(sock.getsockname()[1])
        async for _ in questions(pipe):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(usage.ru_utime + usage.ru_stime)
        await server.stop(5)


def _process(path: Path, writer: str, pipe: Pipe, audited: bool) -> None:  # noqa: FBT001 (a process's argument list)
    uvloop.run(_serve(path, writer, pipe, audited=audited))


@contextmanager
def serving(config: Path) -> Iterator[dict[str, Side]]:
    """One process that records and one that does not."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in SIDES:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_process, args=(config, name, theirs, name == "audited"), daemon=True)
        process.start()
        processes.append(process)
        pipes[name] = ours
    try:
        yield {name: Side(pipe, pipe.recv()) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.send("stop")
        for process in processes:
            process.join(30)


@dataclass
class Side:
    """One of the two, and what it did in each round."""

    pipe: Pipe
    port: int
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """CPU microseconds of a request."""

    def cpu(self) -> float:
        """Seconds that its process has had."""
        self.pipe.send("cpu")
        return float(self.pipe.recv())

    def load(self, daemon: Daemon, members: dict[str, Any], connections: int, seconds: float) -> int:
        """A round; how many errors."""
        endpoint, before, result = f"http://127.0.0.1:{self.port}", self.cpu(), cast("Any", None)
        if shutil.which("wrk"):
            replay = wrk.signed(endpoint, daemon.admin, "Encrypt", dict(members))
            result = wrk.run(replay, connections=connections, seconds=seconds)
        else:
            result = load.run(
                endpoint, daemon.admin, "Encrypt", dict(members), connections=connections, seconds=seconds
            )
        self.rates.append(result.per_second)
        self.costs.append((self.cpu() - before) / (result.per_second * seconds) * 1e6)
        return int(result.errors)


def measure(daemon: Daemon, key_id: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both, A B A B."""
    members = {"KeyId": key_id, "Plaintext": base64.b64encode(b"x" * 32).decode(), "EncryptionContext": {"a": "b"}}
    report: dict[str, Any] = {}
    with serving(daemon.config) as sides:
        for connections in options.connections:
            errors = 0
            for _ in range(options.rounds):
                for side in sides.values():
                    errors += side.load(daemon, members, connections, options.seconds)
            report[f"{connections} connections"] = row(sides, errors)
            for side in sides.values():
                side.rates.clear()
                side.costs.clear()
    return report


def row(sides: dict[str, Side], errors: int) -> dict[str, float]:
    """Medians of the rounds."""
    rate = {name: statistics.median(side.rates) for name, side in sides.items()}
    cost = {name: statistics.median(side.costs) for name, side in sides.items()}
    return {
        "audited per second": round(rate["audited"]),
        "nothing per second": round(rate["nothing"]),
        "ratio": round(rate["audited"] / rate["nothing"], 3),
        "audited CPU us": round(cost["audited"], 1),
        "nothing CPU us": round(cost["nothing"], 1),
        "errors": errors,
    }


def run(folder: Path, **options: Any) -> dict[str, Any]:
    """Set up, measure, and verify the trail."""
    with provisioned(folder, workers=1) as daemon:
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        daemon.stop()
        report = measure(daemon, key_id, argparse.Namespace(**options))
        daemon.cli("audit", "verify")
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), **vars(options)), indent=2))


if __name__ == "__main__":
    main()
