"""Sends fuzzed requests to a running daemon, and checks that every answer is one that the request may have.

By hand, for as many as time allows: `ulimit -v 8000000; python -m tests.support.fuzz 1000000 [SEED [SECONDS]]`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from tests.support.daemon import Daemon, provisioned
from tests.support.fuzz_requests import Generator, Pool

CONNECTIONS = 24
PATIENCE = 30.0
"""Seconds for one answer; more is a hang."""
ALLOWED = {200, 400, 403, 408, 413}
RETRYABLE = {"DependencyTimeoutException", "KeyUnavailableException", "ServiceUnavailableException"}
"""The documented 5xx that a sound daemon may give; KMSInternalException says that something is broken."""
_TYPE = re.compile(rb'"__type":"(\w+)"|<Code>(\w+)</Code>')
_ANSWERS = re.compile(rb"^HTTP/1\.1 (?=[1-5]\d\d )", re.MULTILINE)
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class Found:
    """What came of it."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    """Connections of broken HTTP that were closed without an answer."""
    wrong: list[str] = field(default_factory=list)
    """What may not be; a daemon that is sound leaves it empty."""
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list)
    """KiB of all workers together, at a fifth of the way, two fifths, and so on."""


def run(daemon: Daemon, count: int, seed: int, seconds: float = math.inf) -> Found:
    """Send `count` requests, or what `seconds` allow, as an administrator who may not spoil the few good keys."""
    kms, logs = daemon.client(), daemon.client("logs")
    pool, arns = Pool(), []
    for _ in range(4):
        metadata = kms.create_key()["KeyMetadata"]
        arns.append(metadata["Arn"])
        pool.add("key", metadata["KeyId"])
        pool.learn(json.loads(json.dumps(metadata, default=str)))
    logs.create_log_group(logGroupName="/fuzz")
    logs.create_log_stream(logGroupName="/fuzz", logStreamName="s")
    for kind, things in {
        "group": ("/fuzz", "/fuzz2", "/kmsd/audit"),
        "stream": ("s", "t"),
        "principal": (daemon.admin.arn, "arn:aws:iam::111111111111:root"),
        "policy": (kms.get_key_policy(KeyId=arns[0])["Policy"], "{}", '{"Statement":' + "[" * 5000),
        "pattern": ("ERROR", "{ $.a = 1 }", "[x, y > 3]", '"a b"', "%(a|b)*c%"),
        "query": ("fields @message | limit 5", "stats count(*) by bin(5m)", "parse @message /(?<x>a+)+$/"),
    }.items():
        for thing in things:
            pool.add(kind, thing)
    spoiling = ["kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy", "logs:DeleteLogGroup"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["kms:*", "logs:*", "sts:*"], "Resource": "*"},
            {"Effect": "Deny", "Action": spoiling, "Resource": [*arns, "arn:aws:logs:*:*:log-group:/fuzz"]},
        ],
    }
    generator = Generator(seed, urlsplit(daemon.endpoint).netloc, daemon.user("fuzz", policy), pool)
    found, begun = Found(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_send_all(daemon, generator, count, found, begun + seconds))
    found.seconds = time.monotonic() - begun
    return found


async def _send_all(daemon: Daemon, generator: Generator, count: int, found: Found, until: float) -> None:
    fifths = [count * part // 5 for part in range(1, 6)]

    async def client() -> None:
        stream = None
        while found.sent < count and time.monotonic() < until:
            found.sent += 1
            if found.sent in fifths:
                found.memory.append(memory_of(daemon))
            request, whole = generator.next()
            if stream is None or not whole:
                if stream is not None:
                    stream[1].close()
                stream = await asyncio.open_connection("127.0.0.1", daemon.port)
            try:
                async with asyncio.timeout(PATIENCE):
                    stream = await _exchange(stream, request, whole, generator.pool, found)
            except TimeoutError:
                found.wrong.append(f"no answer within {PATIENCE} s: {request[:2000]!r}")
                stream = None
            except ConnectionError:
                found.silent += 1
                if whole:
                    found.wrong.append(f"connection lost: {request[:2000]!r}")
                stream = None
        if stream is not None:
            stream[1].close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _exchange(stream: Stream, request: bytes, whole: bool, pool: Pool, found: Found) -> Stream | None:  # noqa: FBT001
    """Send, read, judge; the stream, if it can be used on."""
    reader, writer = stream
    writer.write(request)
    if not whole:
        writer.write_eof()
        text = await reader.read()
        writer.close()
        if not text:
            found.silent += 1
        for part in _ANSWERS.split(text)[1:]:
            _judge(int(part[:3]), part, request, found)
        return None
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError from error
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    status = int(head[9:12])
    _judge(status, body, request, found)
    if status == 200 and body[:1] == b"{" and found.sent % 8 == 0:
        pool.learn(json.loads(body))
    if b"\r\nConnection: close" in head:
        writer.close()
        return None
    return stream


def _judge(status: int, body: bytes, request: bytes, found: Found) -> None:
    match = _TYPE.search(body)
    code = (match[1] or match[2]).decode() if match else ""
    found.statuses[status] += 1
    found.codes[code] += 1
    if status not in ALLOWED and code not in RETRYABLE and not (status == 503 and b"readyz" in request):
        found.wrong.append(f"{status} {code} for {request[:4000]!r}")
    if b"Traceback" in body:
        found.wrong.append(f"a traceback for {request[:2000]!r}")


def memory_of(daemon: Daemon) -> int:
    """Resident KiB of all workers."""
    total = 0
    for pid in daemon.workers():
        (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
        total += int(line.split()[1])
    return total


def judge(daemon: Daemon, found: Found, workers: list[int]) -> None:
    """Raises AssertionError unless all is as it must be after a run that `workers` began."""
    assert found.wrong == [], found.wrong[:3]
    assert daemon.workers() == workers, "a worker was lost"
    log = daemon.log()
    for words in ("unexpected_error", "worker_exited", "Traceback"):
        assert words not in log, log[log.index(words) - 2000 : log.index(words) + 2000]
    assert daemon.get("/readyz")[0] == 200


def main() -> None:
    """Print what was found."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder, provisioned(Path(folder), workers=2) as daemon:
        daemon.start()
        workers = daemon.workers()
        found = run(daemon, count, seed, float(sys.argv[3]) if len(sys.argv) > 3 else math.inf)
        found.memory.append(memory_of(daemon))
        print(f"{found.sent} requests in {found.seconds:.0f} s, {found.sent / found.seconds:.0f}/s")  # noqa: T201
        print(found.statuses, found.codes, f"silent {found.silent}", f"memory {found.memory} KiB", sep="\n")  # noqa: T201
        for line in found.wrong[:20]:
            print("WRONG:", line[:3000])  # noqa: T201
        judge(daemon, found, workers)


if __name__ == "__main__":
    main()
