"""A load that keeps to HTTP: keep-alive connections, made anew after `Connection: close`; every request accounted for.

In a process of its own, bounded in time. A request fails if its connection ends before the answer is whole, or the
answer's status is not 200. Nothing is tried twice.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import ssl
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from urllib.parse import urlsplit

import uvloop


@dataclass
class Account:
    """What became of the requests."""

    answered: int = 0
    """With status 200."""
    closed: int = 0
    """Of those, with `Connection: close`."""
    failures: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Connections that nobody accepted: no request was sent on them."""
    slowest: float = 0.0
    """Seconds."""


@dataclass(frozen=True)
class Plan:
    """What to send, and how."""

    endpoint: str
    request: bytes
    connections: int
    seconds: float
    """At most; `Load.result` ends it."""
    authority: str = ""
    """PEM file to trust, for TLS."""
    pause: float = 0.0
    """Seconds between an answer and the next request of a connection."""
    reconnect: bool = True
    """False: a connection that was closed is not made anew (the daemon stops for good)."""
    others: tuple[bytes, ...] = ()
    """What each client sends after `request`, in turn, before it begins anew."""
    keep: int = 0
    """Requests after which a client makes its connection anew, so that each worker gets some; 0: as many as it can."""


async def _client(plan: Plan, account: Account, over: asyncio.Event) -> None:
    parts = urlsplit(plan.endpoint)
    context = ssl.create_default_context(cafile=plan.authority) if plan.authority else None
    requests = itertools.cycle((plan.request, *plan.others))
    while not over.is_set():
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        except ConnectionRefusedError:
            account.refused += 1
            return
        except OSError as error:
            account.failures[f"connecting: {error!r}"] += 1
            continue
        try:
            for number in itertools.count(1):
                if over.is_set() or not await _exchange(next(requests), account, reader, writer):
                    break
                await _pause(over, plan.pause)
                if number == plan.keep:
                    break
        finally:
            writer.close()
        if not plan.reconnect:
            return


async def _pause(over: asyncio.Event, seconds: float) -> None:
    if seconds:
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), seconds)


async def _exchange(
    request: bytes, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """One request and its answer; whether the connection may be used again."""
    begun = time.monotonic()
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await asyncio.wait_for(reader.readexactly(int(headers[b"Content-Length"])), 30)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        account.failures[repr(error)] += 1
        return False
    account.slowest = max(account.slowest, time.monotonic() - begun)
    if not head.startswith(b"HTTP/1.1 200 "):
        account.failures[head.split(b"\r\n")[0].decode()] += 1
        return False
    account.answered += 1
    closes = headers.get(b"Connection") == b"close"
    account.closed += closes
    return not closes


async def _all(plan: Plan, pipe: Pipe) -> Account:
    account, over = Account(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_later(plan.seconds, over.set)
    loop.add_reader(pipe.fileno(), over.set)
    await asyncio.gather(*(_client(plan, account, over) for _ in range(plan.connections)))
    loop.remove_reader(pipe.fileno())
    return account


def _work(pipe: Pipe, plan: Plan) -> None:
    account = uvloop.run(_all(plan, pipe))
    os.set_blocking(pipe.fileno(), True)
    pipe.send(account)


class Load:
    """A load under way; as a context manager it is ended, if need be, with the block."""

    def __init__(self, plan: Plan) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, plan), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Account:
        """End it; what came of it."""
        with suppress(BrokenPipeError):  # it has ended by itself
            self._pipe.send("end")
        found: Account = self._pipe.recv()
        self._process.join(30)
        return found

    def __enter__(self) -> Load:  # noqa: PYI034 (no subclass)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(30)
        self._pipe.close()
