"""A server around a handler that tests can hold up, and how its answers are read."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from kmsd.wire.http.server import Listener, Request, Response, Server, TransportLimits

LIMITS = TransportLimits(
    header_seconds=0.3,
    body_seconds=0.3,
    answer_seconds=0.3,
    keep_alive_seconds=0.4,
    linger_seconds=0.3,
    body_bytes=10_000,
    connections=50,
)
PATIENT = replace(LIMITS, header_seconds=20, body_seconds=20, keep_alive_seconds=20, linger_seconds=20)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Site:
    """A running server, and what its handler saw."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.gate: asyncio.Event | None = None
        self.waiting = asyncio.Event()
        self.answer = Response(200, (("Content-Type", "text/plain"),), b"")
        self.failure: Exception | None = None
        self.server: Server
        self.listener: Listener
        self.listening: socket.socket
        self.port = 0
        self.reports: list[dict[str, Any]] = []

    async def handle(self, request: Request) -> Response:
        """Answer with method, target and body, when the gate is open."""
        self.seen.append(request)
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        received = request.received
        text = f"{received.method} {received.target} ".encode() + received.body
        return Response(self.answer.status, self.answer.headers, self.answer.body or text)

    async def talk(self, *pieces: bytes) -> bytes:
        """Send pieces, then read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def until_seen(self, count: int) -> None:
        """Wait until so many requests have reached the handler."""
        async with asyncio.timeout(60):
            while len(self.seen) < count:  # noqa: ASYNC110 (what is waited for is the kernel)
                await asyncio.sleep(0.005)


Start = Callable[..., Awaitable[Site]]
"""What the fixture `start` gives: start a server with these limits."""


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body of a single answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(headers) == len(lines)
    assert int(headers["content-length"]) == len(body)
    return int(first.split(" ")[1]), headers, body


def refused(answer: bytes, status: int, name: str) -> str:
    """Check that `answer` is a refusal in AWS's form; its message."""
    got, headers, body = parts(answer)
    document = json.loads(body)
    assert (got, document.pop("__type")) == (status, name)
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert UUID4.fullmatch(headers["x-amzn-requestid"])
    assert headers["connection"] == "close"
    assert headers["server"] == "kmsd"
    message = document.pop("message")
    assert document == {}
    assert isinstance(message, str)
    return message
