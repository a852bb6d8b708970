"""How long a worker's event loop is held up, at 64 connections, by a token that takes a millisecond and by a quick one.

    .venv/bin/python -m tests.bench.turns [--seconds 10]

A beat is due every millisecond; how late it comes is how long the loop did something else, or the processor was
somebody else's. One worker of each kind, measured in turn; JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import uvloop

from kmsd.app import open_components
from kmsd.config import settings as configuration
from kmsd.custody.credentials import CredentialStore
from kmsd.daemon.worker import GC_THRESHOLD
from kmsd.wire.endpoint import Endpoint
from kmsd.wire.http.listeners import bind_tcp
from kmsd.wire.http.server import Listener, serve
from kmsd.wire.readiness import Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4.claim import signing_key
from tests.bench import servers, wrk
from tests.bench.audit_cost import questions

BEAT = 0.001
CONNECTIONS = 64


class Beats:
    """Notes how late each beat of the running loop comes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.late: list[float] = []
        self._next()

    def _next(self) -> None:
        # Not by the loop's own clock, which counts whole milliseconds and stands still while a turn lasts.
        due = time.monotonic() + BEAT

        def beat() -> None:
            self.late.append(time.monotonic() - due)
            self._next()

        self._loop.call_later(BEAT, beat)


async def _serve(path: Path, pipe: Pipe) -> None:
    """Serve until told to stop; tell how late the beats have been since the last question."""
    async with open_components(configuration.load(path), "turns") as components:
        pipeline = components.pipeline
        refusals = RefusedRequestLog(pipeline.sink, pipeline.dependencies.arns)
        front = Endpoint(
            pipeline,
            CredentialStore(components.token, pipeline.dependencies.arns, signing_key),
            Readiness({}),
            refusals,
        )
        sock = bind_tcp("127.0.0.1", 0)
        server = await serve(front.handle, [Listener(sock)], cohorts=pipeline.cohorts)
        gc.set_threshold(GC_THRESHOLD)
        pipe.send(sock.getsockname()[1])
        beats = Beats()
        async for _ in questions(pipe):
            pipe.send(sorted(beats.late))
            beats.late.clear()
        await server.stop(5)


def _process(path: Path, environment: dict[str, str], pipe: Pipe) -> None:
    os.environ.update(environment)
    uvloop.run(_serve(path, pipe))


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Both kinds."""
    report: dict[str, Any] = {}
    for name, delay in (("a millisecond", BEAT), ("quick", 0.0)):
        with ExitStack() as stack:
            site = stack.enter_context(servers.kmsd(folder / name.replace(" ", "-"), workers=1, token_delay=delay))
            assert site.daemon is not None
            environment = servers.shimmed(site.daemon, delay)
            site.daemon.stop()
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=_process, args=(site.daemon.config, environment, theirs), daemon=True
            )
            process.start()
            endpoint = f"http://127.0.0.1:{ours.recv()}"
            encrypt = wrk.signed(
                endpoint, site.daemon.admin, "Encrypt", {"KeyId": site.key_id, "Plaintext": servers.PLAINTEXT}
            )
            wrk.run(encrypt, connections=CONNECTIONS, seconds=1)
            ours.send("late")
            ours.recv()
            result = wrk.run(encrypt, connections=CONNECTIONS, seconds=seconds)
            ours.send("late")
            late = ours.recv()
            ours.send("stop")
            process.join(30)
        report[name] = {
            "per second": round(result.per_second),
            "errors": result.errors,
            "beats": len(late),
            "late ms": {
                "median": round(statistics.median(late) * 1e3, 2),
                "99 %": round(late[int(len(late) * 0.99)] * 1e3, 2),
                "most": round(late[-1] * 1e3, 2),
            },
            "over 5 ms": sum(one > 0.005 for one in late),
        }
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measure(Path(folder), options.seconds), indent=2) + "\n")


if __name__ == "__main__":
    main()
