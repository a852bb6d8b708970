"""Latency of Encrypt at 8 connections while hostile queries or searches run without pause, and without them, in turns.

    .venv/bin/python -m tests.bench.hostile_query [--seconds 5] [--rounds 5] [--connections 8] [--workers 2]

Each hostile caller begins the next as soon as the last has ended. The limit is twice the p99 without.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from botocore.exceptions import ClientError

from tests.bench import load
from tests.support.daemon import Daemon, provisioned
from tests.support.log_service import millis, stream_for

GROUP = "/hostile"
NINETY_NINE = ",".join(["@message"] * 99)
QUERIES = {
    "expression": "filter @message like /[ab]*a[ab]{150}c/ | stats count(*)",
    "memory": f"fields concat({NINETY_NINE}) as a | sort a | limit 100",
    "JSON": "stats count(*), count_distinct(a.0), max(@message) by b.c, n | sort n desc",
    "parse": r"parse @message /(?<x>[ab]+)(?<y>[ab]{40})c?$/ | stats count(*) by y | sort y",
}
PATTERNS = {
    "search": "%[ab]*a[ab]{150}c%",
    "fields": "[a, b = x, ...]",
}


def fill(logs: Any) -> None:
    """Events of every size, random so that no matcher can remember where it has been."""
    random, now = Random(1), millis() - 3_600_000  # noqa: S311 (the same each time)
    stream_for(logs, GROUP)
    for number, (size, count) in enumerate(((300, 1_000), (2_000, 400), (60_000, 12), (900_000, 1)) * 2):
        messages = ["".join(random.choices("ab", k=size)) for _ in range(count)]
        messages[0] = '{"a":[' + "[1]," * (size // 5) + '1],"b":{"c":1},"n":5}'
        messages[-1] = "[ " * (size // 2)
        events = [{"timestamp": now + number * 10_000 + index, "message": one} for index, one in enumerate(messages)]
        logs.put_log_events(logGroupName=GROUP, logStreamName="s", logEvents=events)


@contextmanager
def attacked(act: Callable[[Any], None], daemon: Daemon) -> Iterator[list[int]]:
    """Call `act` from two threads, each with a connection of its own, without pause; how often is counted."""
    over, count = threading.Event(), [0]

    def attack() -> None:
        logs = daemon.client("logs", read_timeout=120)
        while not over.is_set():
            act(logs)
            count[0] += 1

    threads = [threading.Thread(target=attack) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    try:
        yield count
    finally:
        over.set()
        for thread in threads:
            thread.join()


def querying(text: str) -> Callable[[Any], None]:
    """A query, from its start to its end."""

    def act(logs: Any) -> None:
        span = {"startTime": 0, "endTime": millis() // 1000}
        try:
            query = logs.start_query(logGroupName=GROUP, queryString=text, **span)["queryId"]
            while logs.get_query_results(queryId=query, maxItems=1)["status"] == "Running":
                time.sleep(0.05)
        except ClientError as exc:
            sys.stderr.write(f"{exc}\n")

    return act


def searching(pattern: str) -> Callable[[Any], None]:
    """A page of a search, from the beginning."""

    def act(logs: Any) -> None:
        logs.filter_log_events(logGroupName=GROUP, filterPattern=pattern)

    return act


def main() -> None:
    """Print the median p99 of each, and its share of that of peace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    acts = {name: querying(text) for name, text in QUERIES.items()}
    acts |= {name: searching(pattern) for name, pattern in PATTERNS.items()}
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=options.workers) as daemon:
        daemon.start()
        fill(daemon.client("logs"))
        members: dict[str, object] = {
            "KeyId": daemon.client().create_key()["KeyMetadata"]["KeyId"],
            "Plaintext": "YQ==",
        }

        def encrypt() -> load.Result:
            how = {"connections": options.connections, "seconds": options.seconds}
            return load.run(daemon.endpoint, daemon.admin, "Encrypt", members, **how)

        encrypt()
        for name, act in acts.items():
            peace, war, count = [], [], 0
            for _ in range(options.rounds):
                peace.append(encrypt())
                with attacked(act, daemon) as times:
                    war.append(encrypt())
                count += times[0]
            before, after = (statistics.median(one.p99 for one in found) for found in (peace, war))
            rate = [statistics.median(one.per_second for one in found) for found in (peace, war)]
            errors = sum(one.errors + one.broken for one in (*peace, *war))
            sys.stdout.write(
                f"{name:12} p99 {before / 1000:6.2f} ms in peace, {after / 1000:6.2f} ms beside: "
                f"{after / before:.2f} times; {rate[0]:,.0f}/s and {rate[1]:,.0f}/s; {count} attacks; {errors} errors\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
