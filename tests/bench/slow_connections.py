"""Ten thousand connections that say almost nothing, and an honest client beside them.

    .venv/bin/python -m tests.bench.slow_connections [--connections 10000] [--seconds 4] [--rounds 3]

A third say nothing, a third drip a header, a third drip a body, a byte every ten seconds each. Prints as JSON: p99 of
an honest client's Encrypt without and with them, what each takes of the workers' memory, when the last was gone.
Needs `ulimit -n` of twice the connections; the hard limit is used.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import cast

import uvloop

from tests.bench import wrk
from tests.support.daemon import Daemon, provisioned
from tests.support.fuzz import memory_of

DEADLINE = 20.0
"""Seconds that headers and bodies may take: longer than by default, so that there is time to measure."""
DRIP_SECONDS = 10.0
BEGINNINGS = (
    b"",
    b"POST / HTTP/1.1\r\nHost: slow\r\nX-Slow: ",
    b"POST / HTTP/1.1\r\nHost: slow\r\nContent-Length: 100000\r\n\r\n",
)


class _Slow(asyncio.Protocol):
    """One connection."""

    def __init__(self, beginning: bytes, open_ones: set[_Slow]) -> None:
        self.beginning, self.open = beginning, open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not say that they are one
        self.open.add(self)
        transport.write(self.beginning)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.open.discard(self)

    def eof_received(self) -> bool:
        return False


async def _hold(port: int, count: int, pipe: Pipe) -> None:
    """Open them, say so, drip, and say when the last is gone."""
    loop, open_ones = asyncio.get_running_loop(), set[_Slow]()
    for start in range(0, count, 100):
        await asyncio.gather(
            *(
                loop.create_connection(lambda i=index: _Slow(BEGINNINGS[i % 3], open_ones), "127.0.0.1", port)  # type: ignore[misc]
                for index in range(start, min(start + 100, count))
            )
        )
    pipe.send(len(open_ones))
    dripping = loop.create_task(_drip(open_ones, count))
    while open_ones:  # noqa: ASYNC110 (a set has no event)
        await asyncio.sleep(0.05)
    dripping.cancel()
    pipe.send(0)


async def _drip(open_ones: set[_Slow], count: int) -> None:
    while True:
        for number, slow in enumerate(list(open_ones)):
            if slow.beginning and slow in open_ones:
                slow.transport.write(b"x")
            if number % 10 == 9:
                await asyncio.sleep(DRIP_SECONDS / (count / 10))
        await asyncio.sleep(0)


def _holder(port: int, count: int, pipe: Pipe) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_hold(port, count, pipe))


def measure(daemon: Daemon, honest: wrk.Replay, count: int, seconds: float) -> dict[str, float]:
    """One round."""
    alone = wrk.run(honest, connections=4, seconds=seconds)
    before = memory_of(daemon)
    pipe, other = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=_holder, args=(daemon.port, count, other))
    begun = time.monotonic()
    holder.start()
    opened = pipe.recv()
    ready = time.monotonic()
    memory = memory_of(daemon) - before
    beside = wrk.run(honest, connections=4, seconds=seconds)
    pipe.recv()
    gone = time.monotonic() - ready
    holder.join()
    return {
        "opened": opened,
        "seconds_to_open": round(ready - begun, 2),
        "kib_each": round(memory / count, 2),
        "p99_alone_us": alone.p99,
        "p99_beside_us": beside.p99,
        "p50_alone_us": alone.p50,
        "p50_beside_us": beside.p50,
        "errors": alone.errors + beside.errors,
        "last_gone_after_seconds": round(gone, 1),
        "kib_each_afterwards": round((memory_of(daemon) - before) / count, 2),
    }


def main() -> None:
    """Measure some rounds, print them and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=2) as daemon:
        text = daemon.config.read_text()
        limits = f"[listen]\nheader_seconds = {DEADLINE}\nbody_seconds = {DEADLINE}\n"
        daemon.config.write_text(text.replace("[listen]\n", limits))
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        members = {"KeyId": key_id, "Plaintext": base64.b64encode(b"x" * 32).decode()}
        honest = wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", members)
        wrk.run(honest, connections=4, seconds=2)
        rounds = [measure(daemon, honest, options.connections, options.seconds) for _ in range(options.rounds)]
    ratio = statistics.median(one["p99_beside_us"] / one["p99_alone_us"] for one in rounds)
    print(json.dumps({"rounds": rounds, "p99_ratio": round(ratio, 2)}, indent=2))


if __name__ == "__main__":
    main()
