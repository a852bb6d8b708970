"""A bounded load of signed requests over raw sockets, in a process of its own; every answer can be accounted for.

    result = load.run(endpoint, credentials, "Encrypt", {"KeyId": …}, connections=64, seconds=3)

Pure Python, so it costs more than the server: for ceilings use tests/bench/wrk.py; for tests that need to know
which requests were answered, and for hosts without wrk, this one.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from urllib.parse import urlsplit

import uvloop
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from tests.support.clients import REGION, Credentials

_REQUEST_ID = b"x-amzn-RequestId: "
_LENGTH = b"Content-Length: "


@dataclass
class Result:
    """What the generator saw."""

    seconds: float = 0.0
    answered: int = 0
    """With status 200."""
    errors: int = 0
    """Answers of another status."""
    broken: int = 0
    """Connections that ended in the middle of an exchange."""
    p50: float = 0.0
    p99: float = 0.0
    """Microseconds."""
    request_ids: list[str] = field(default_factory=list)
    """Of the answers with status 200, if asked for."""

    @property
    def per_second(self) -> float:
        """Good answers."""
        return self.answered / self.seconds if self.seconds else 0.0


def signed(endpoint: str, credentials: Credentials, operation: str, members: dict[str, object]) -> bytes:
    """The bytes of a request that is good for fifteen minutes."""
    body = json.dumps(members).encode()
    headers = {"X-Amz-Target": f"TrentService.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", f"{endpoint}/", data=body, headers=headers)
    SigV4Auth(BotoCredentials(credentials.access_key_id, credentials.secret), "kms", REGION).add_auth(request)
    lines = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "content-length"]
    head = ["POST / HTTP/1.1", f"Host: {urlsplit(endpoint).netloc}", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


class _Client(asyncio.Protocol):
    """One connection: the next request leaves when the last answer is whole."""

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.over = asyncio.get_running_loop().create_future()
        self._data = b""
        self._begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        if self.load.over():
            self.transport.close()
            return
        self._begun = time.perf_counter()
        self.load.sent += 1
        self.transport.write(self.load.request)  # type: ignore[attr-defined] # a stream's transport writes

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._data.find(_LENGTH) + len(_LENGTH)
        length = int(self._data[at : self._data.index(b"\r", at)])
        if len(self._data) < end + 4 + length:
            return
        self.load.took(self._data, time.perf_counter() - self._begun)
        self._data = b""
        self._begun = 0.0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if self._begun:
            self.load.result.broken += 1
        if not self.over.done():
            self.over.set_result(None)


class _Load:
    def __init__(self, request: bytes, seconds: float, most: int, *, keep_ids: bool) -> None:
        self.request = request
        self.result = Result()
        self.times: list[float] = []
        self.sent = 0
        self._most = most
        self._keep_ids = keep_ids
        self._end = time.perf_counter() + seconds

    def over(self) -> bool:
        return self.sent >= self._most or time.perf_counter() >= self._end

    def took(self, answer: bytes, seconds: float) -> None:
        self.times.append(seconds)
        if not answer.startswith(b"HTTP/1.1 200"):
            self.result.errors += 1
            return
        self.result.answered += 1
        if self._keep_ids:
            at = answer.index(_REQUEST_ID) + len(_REQUEST_ID)
            self.result.request_ids.append(answer[at : at + 36].decode())

    async def run(self, host: str, port: int, connections: int) -> Result:
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        made = await asyncio.gather(
            *(loop.create_connection(lambda: _Client(self), host, port) for _ in range(connections)),
            return_exceptions=True,
        )
        clients = [pair[1] for pair in made if not isinstance(pair, BaseException)]
        await asyncio.gather(*(client.over for client in clients))
        self.result.seconds = time.perf_counter() - begun
        if self.times:
            self.result.p50 = statistics.median(self.times) * 1e6
            self.result.p99 = sorted(self.times)[int(len(self.times) * 0.99)] * 1e6
        return self.result


def _work(pipe: Pipe, endpoint: str, request: bytes, options: tuple[int, float, int, bool]) -> None:
    connections, seconds, most, keep_ids = options
    parts = urlsplit(endpoint)
    load = _Load(request, seconds, most, keep_ids=keep_ids)
    pipe.send(uvloop.run(load.run(parts.hostname or "", parts.port or 0, connections)))


@dataclass
class Running:
    """A load under way."""

    process: multiprocessing.process.BaseProcess
    pipe: Pipe

    def result(self) -> Result:
        """Wait for its end."""
        found: Result = self.pipe.recv()
        self.process.join(30)
        return found


def start(
    endpoint: str,
    request: bytes,
    *,
    connections: int,
    seconds: float,
    most: int = 1_000_000,
    keep_ids: bool = False,
) -> Running:
    """Begin a load in another process: it ends after `seconds` or `most` requests, or when the server is gone."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    options = (connections, seconds, most, keep_ids)
    process = spawn.Process(target=_work, args=(theirs, endpoint, request, options), daemon=True)
    process.start()
    return Running(process, ours)


def run(
    endpoint: str,
    credentials: Credentials,
    operation: str,
    members: dict[str, object],
    *,
    connections: int,
    seconds: float,
) -> Result:
    """A whole load of one signed request, repeated."""
    request = signed(endpoint, credentials, operation, members)
    return start(endpoint, request, connections=connections, seconds=seconds).result()
