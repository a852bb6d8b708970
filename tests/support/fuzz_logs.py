"""Has hostile filter patterns and queries look at hostile events, in bounded memory, and measures what each costs.

By hand: `python -m tests.support.fuzz_logs --count 1000000 [--seed 1] [--first 0] [--seconds N]`; `--daemon 1000`
sends so many over a socket as well. A case depends on the seed and its number alone: `--first` goes on, or repeats one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from kmsd.cloudwatch_logs.evaluation import MAX_STEPS_ON_LOOP, PLAIN_INSTRUCTIONS
from kmsd.cloudwatch_logs.events import LogEvent, position_at
from kmsd.cloudwatch_logs.filter_pattern.pattern import compile_pattern
from kmsd.cloudwatch_logs.insights.planner import plan
from kmsd.cloudwatch_logs.insights.rows import Record
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.work_budget import MAX_QUERY_BYTES, Budget, TooLarge
from kmsd.daemon.worker import GC_THRESHOLD
from kmsd.errors import InvalidParameterException
from tests.support.daemon import Daemon, provisioned
from tests.support.fuzz_log_texts import Texts

CPU_SECONDS = 0.05
"""What one case may take of the processor, for each MiB of its input that has begun."""
MIB = 1_048_576
WORKERS = 2
MEMORY_BYTES = 1_073_741_824
"""Address space of the process beyond what it had before."""
ALLOWED = {
    "InvalidParameterException",
    "MalformedQueryException",
    "LimitExceededException",
    "ServiceUnavailableException",
}


@dataclass
class Found:
    """What came of it."""

    cases: int = 0
    refused: int = 0
    matched: int = 0
    too_large: int = 0
    most: tuple[float, int] = (0.0, 0)
    """CPU seconds of the costliest case that the event loop would carry out itself, and its number."""
    most_in_thread: tuple[float, int] = (0.0, 0)
    """The same of those that are carried out in a thread, outside of the interpreter for the most part."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run(count: int, seed: int, first: int = 0, *, seconds: float = math.inf, limit: float = CPU_SECONDS) -> Found:
    """Carry out cases from `first` on; two of three are filter patterns. `limit` is that of `CPU_SECONDS`."""
    found, until = Found(), time.monotonic() + seconds
    for number in range(first, first + count):
        texts = Texts(seed * 1_000_003 + number)
        began = time.process_time()
        try:
            size, in_thread, instructions = (_query if number % 3 == 0 else _pattern)(texts, found)
        except Exception as exc:  # noqa: BLE001 (whatever is raised is what is looked for)
            found.wrong.append(f"case {number}: {type(exc).__name__}: {str(exc)[:200]}")
            continue
        took = time.process_time() - began
        found.cases, found.seconds = found.cases + 1, found.seconds + took
        if in_thread:
            found.most_in_thread = max(found.most_in_thread, (took, number))
        else:
            found.most = max(found.most, (took, number))
        if took > limit * max(math.ceil(size / MIB), 1) and not (in_thread and instructions > PLAIN_INSTRUCTIONS):
            found.wrong.append(f"case {number}: {took * 1000:.0f} ms for {size} bytes")
        if time.monotonic() > until:
            break
    return found


def _pattern(texts: Texts, found: Found) -> tuple[int, bool, int]:
    """One pattern and one event: what it read, and whether the daemon would use a thread."""
    pattern, message = texts.pattern(), texts.event()
    try:
        matches = compile_pattern(pattern)
    except InvalidParameterException:
        found.refused += 1
        return len(pattern), False, 0
    found.matched += matches(message)
    steps = len(message) * (matches.instructions + PLAIN_INSTRUCTIONS)
    return len(pattern) + len(message), steps > MAX_STEPS_ON_LOOP, matches.instructions


def _query(texts: Texts, found: Found) -> tuple[int, bool, int]:
    """One query and some events."""
    query, messages = texts.query(), [texts.event() for _ in range(3)]
    budget = Budget(MAX_QUERY_BYTES)
    try:
        read = plan(query)
    except MalformedQuery:
        found.refused += 1
        return len(query), False, 0
    work = read.run(10_000, multiple_groups=False, budget=budget)
    try:
        for number, message in enumerate(messages):
            work.feed(Record(LogEvent(position_at(number) + 1, number, message, 0, b"s"), "s", "1:g"))
        work.end()
    except TooLarge:
        found.too_large += 1
    found.matched += work.matched
    work.drain()
    longest = max(map(len, messages)) if not read.grows else MIB
    in_thread = read.instructions > 0 and longest * (read.instructions + PLAIN_INSTRUCTIONS) > MAX_STEPS_ON_LOOP
    return len(query) + sum(map(len, messages)), in_thread, read.instructions


def limit_memory() -> None:
    """Have allocations fail that no case needs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))


def over_socket(count: int, seed: int) -> list[str]:
    """Send cases to a daemon of two workers; what may not be."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=WORKERS) as daemon:
        daemon.start()
        workers, logs = _both_workers(daemon), daemon.client("logs", read_timeout=60)
        logs.create_log_group(logGroupName="/f")
        logs.create_log_stream(logGroupName="/f", logStreamName="s")
        queries = [_send(logs, Texts(seed * 1_000_003 + number), number, wrong) for number in range(count)]
        asyncio.run(_await_ends(logs, [query for query in queries if query], wrong))
        if sorted(daemon.workers()) != sorted(workers):
            wrong.append("a worker was lost")
        if "Traceback" in daemon.log():
            wrong.append("a traceback in the log")
    return wrong


def _both_workers(daemon: Daemon) -> list[int]:
    """Their process ids, once the second has started as well."""
    until = time.monotonic() + 30
    while len(found := daemon.workers()) < WORKERS and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _send(logs: Any, texts: Texts, number: int, wrong: list[str]) -> str | None:
    now = int(time.time() * 1000)
    try:
        event = {"timestamp": now, "message": texts.event()[: MIB - 26]}
        logs.put_log_events(logGroupName="/f", logStreamName="s", logEvents=[event])
        if number % 3:
            logs.filter_log_events(logGroupName="/f", filterPattern=texts.pattern(), startTime=now - 2_000)
            return None
        span = {"startTime": now // 1000 - 2, "endTime": now // 1000 + 1}
        return str(logs.start_query(logGroupName="/f", queryString=texts.query(), **span)["queryId"])
    except ClientError as exc:
        if exc.response["Error"]["Code"] not in ALLOWED:
            wrong.append(f"case {number}: {exc}")
        return None


async def _await_ends(logs: Any, queries: list[str], wrong: list[str]) -> None:
    """Every query ends, however it does."""
    until = time.monotonic() + 120
    for query in queries:
        while logs.get_query_results(queryId=query, maxItems=1)["status"] == "Running":
            if time.monotonic() > until:
                wrong.append(f"query {query} is running")
                return
            await asyncio.sleep(0.05)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--daemon", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    wrong = over_socket(options.daemon, options.seed) if options.daemon else []
    limit_memory()
    found = run(options.count, options.seed, options.first, seconds=options.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        f"{found.cases:,} cases, {found.refused:,} refused, {found.matched:,} matched, {found.too_large} too large",
        f"{found.seconds:,.0f} s of CPU; resident at most {peak:.0f} MiB",
        f"at most {found.most[0] * 1000:.1f} ms for one on the loop: case {found.most[1]}",
        f"at most {found.most_in_thread[0] * 1000:.1f} ms for one in a thread: case {found.most_in_thread[1]}",
        *(f"WRONG {line}" for line in (*wrong, *found.wrong)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    raise SystemExit(bool(wrong or found.wrong))


if __name__ == "__main__":
    main()
