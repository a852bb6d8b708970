"""Encrypt of 32 bytes and of 4 KiB against a bare aiohttp handler, in turn, at 1 and 64 connections.

    .venv/bin/python -m tests.bench.encrypt [--rounds 4] [--seconds 3] [--connections 1 8 64]

Prints medians and ratios as JSON: kmsd runs with two workers and everything on, the ceiling is one process.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import wrk
from tests.daemon import free_port, provisioned


@contextmanager
def ceiling() -> Iterator[str]:
    """The bare handler's URL, until the end of the block."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.ceiling", str(port)])
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            except urllib.error.HTTPError as answer:
                answer.close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=2) as daemon, ceiling() as bare:
        daemon.start()
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        report = {}
        for size in (32, 4096):
            members = {"KeyId": key_id, "Plaintext": base64.b64encode(b"x" * size).decode()}
            ours = wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", members)
            theirs = wrk.Replay(bare + "/", ours.headers, ours.body)
            for connections in options.connections:
                report[f"{size} bytes, {connections} connections"] = compare(ours, theirs, connections, options)
        print(json.dumps(report, indent=2))


def compare(
    ours: wrk.Replay, theirs: wrk.Replay, connections: int, options: argparse.Namespace
) -> dict[str, float | int]:
    """A B A B, medians."""
    taken: dict[str, list[wrk.Result]] = {"kmsd": [], "ceiling": []}
    for _ in range(options.rounds):
        for name, replay in (("kmsd", ours), ("ceiling", theirs)):
            taken[name].append(wrk.run(replay, connections=connections, seconds=options.seconds))
    middle = {name: statistics.median(result.per_second for result in results) for name, results in taken.items()}
    return {
        "kmsd per second": round(middle["kmsd"]),
        "ceiling per second": round(middle["ceiling"]),
        "ratio": round(middle["kmsd"] / middle["ceiling"], 3),
        "kmsd p50 us": statistics.median(result.p50 for result in taken["kmsd"]),
        "ceiling p50 us": statistics.median(result.p50 for result in taken["ceiling"]),
        "kmsd p99 us": statistics.median(result.p99 for result in taken["kmsd"]),
        "ceiling p99 us": statistics.median(result.p99 for result in taken["ceiling"]),
        "errors": sum(result.errors for results in taken.values() for result in results),
    }


if __name__ == "__main__":
    main()
