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
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import uvloop

from kmsd import config as configuration
from kmsd.app import open_rooms
from kmsd.custody.credentials import Credentials
from kmsd.wire.front import Front
from kmsd.wire.listeners import bind_tcp
from kmsd.wire.refusals import RefusalLedger
from kmsd.wire.sigv4_claim import signing_key
from kmsd.wire.transport import Listener, serve
from tests.bench import load, wrk
from tests.daemon import Daemon, provisioned


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
    async with open_rooms(configuration.load(path), writer) as rooms:
        pipeline = rooms.pipeline if audited else replace(rooms.pipeline, sink=NoSink())
        place = pipeline.world.place
        refusals = RefusalLedger(pipeline.sink, place)
        front = Front(pipeline, Credentials(rooms.token, place, signing_key), {}, refusals)
        sock = bind_tcp("127.0.0.1", 0)
        server = await serve(front.handle, [Listener(sock)], lockstep=pipeline.lockstep)
        pipe.send(sock.getsockname()[1])
        async for _ in questions(pipe):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(usage.ru_utime + usage.ru_stime)
        await server.stop(5)


def _process(path: Path, writer: str, pipe: Pipe, audited: bool) -> None:  # noqa: FBT001 (a process's argument list)
    uvloop.run(_serve(path, writer, pipe, audited=audited))


def measure(daemon: Daemon, key_id: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both, A B A B."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Pipe] = {}
    processes = []
    for name in ("audited", "nothing"):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_process, args=(daemon.config, name, theirs, name == "audited"), daemon=True)
        process.start()
        processes.append(process)
        pipes[name] = ours
    ports = {name: pipe.recv() for name, pipe in pipes.items()}
    members = {"KeyId": key_id, "Plaintext": base64.b64encode(b"x" * 32).decode(), "EncryptionContext": {"a": "b"}}
    report: dict[str, Any] = {}
    for connections in options.connections:
        rates: dict[str, list[float]] = {name: [] for name in pipes}
        costs: dict[str, list[float]] = {name: [] for name in pipes}
        errors = 0
        for _ in range(options.rounds):
            for name, pipe in pipes.items():
                endpoint = f"http://127.0.0.1:{ports[name]}"
                pipe.send("cpu")
                before = pipe.recv()
                result: Any
                if shutil.which("wrk"):
                    replay = wrk.signed(endpoint, daemon.admin, "Encrypt", dict(members))
                    result = wrk.run(replay, connections=connections, seconds=options.seconds)
                else:
                    result = load.run(
                        endpoint,
                        daemon.admin,
                        "Encrypt",
                        dict(members),
                        connections=connections,
                        seconds=options.seconds,
                    )
                pipe.send("cpu")
                rates[name].append(result.per_second)
                costs[name].append((pipe.recv() - before) / (result.per_second * options.seconds) * 1e6)
                errors += result.errors
        rate = {name: statistics.median(found) for name, found in rates.items()}
        cost = {name: statistics.median(found) for name, found in costs.items()}
        report[f"{connections} connections"] = {
            "audited per second": round(rate["audited"]),
            "nothing per second": round(rate["nothing"]),
            "ratio": round(rate["audited"] / rate["nothing"], 3),
            "audited CPU us": round(cost["audited"], 1),
            "nothing CPU us": round(cost["nothing"], 1),
            "errors": errors,
        }
    for pipe in pipes.values():
        pipe.send("stop")
    for process in processes:
        process.join(30)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=1) as daemon:
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        daemon.stop()
        print(json.dumps(measure(daemon, key_id, options), indent=2))
        shown = daemon.cli("audit", "verify").stdout.decode().splitlines()
        print(shown[-1])


if __name__ == "__main__":
    main()
