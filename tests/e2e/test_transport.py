"""The transport over real sockets: what is answered, what is refused, and when connections end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.wire.transport import (
    Answer,
    Listener,
    ListenerRefused,
    Request,
    bind_tcp,
    bind_unix,
    inherited,
    listener_permitted,
    new_request_id,
    serve,
)
from tests.transport_site import LIMITS, UUID4, Site, Start, parts, refused

PATIENT = replace(LIMITS, header_seconds=20, body_seconds=20, keep_alive_seconds=20, linger_seconds=20)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


# --- Requests and answers ---------------------------------------------------------------------------


async def test_request_as_received(start: Start) -> None:
    """The handler sees the request as it was sent, and who sent it; the answer carries what it must."""
    site = await start()
    answer = await site.talk(
        b"POST /a//b%20c?x=%2f HTTP/1.1\r\nHost: h:1\r\nX-Two: a\r\nx-two: b\xff\r\nConnection: close\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    status, headers, body = parts(answer)
    assert (status, body) == (200, b"POST /a//b%20c?x=%2f abc")
    assert headers["server"] == "kmsd"
    assert headers["date"].endswith("GMT")
    assert headers["connection"] == "close"
    (request,) = site.seen
    assert request.received.headers == (
        ("Host", "h:1"),
        ("X-Two", "a"),
        ("x-two", "b\udcff"),
        ("Connection", "close"),
        ("Content-Length", "3"),
    )
    assert (request.peer, request.tls, request.http_version) == ("127.0.0.1", None, "1.1")


async def test_keep_alive_and_its_end(start: Start) -> None:
    """A connection serves many requests, and is closed when it has rested too long."""
    site = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for _ in range(3):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection" not in head
        assert await reader.readexactly(6) == b"GET / "
    began = asyncio.get_running_loop().time()
    assert await reader.read() == b""
    rested = asyncio.get_running_loop().time() - began
    writer.close()
    assert LIMITS.keep_alive_seconds - 0.1 <= rested < 5
    assert len(site.seen) == 3


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
)
async def test_closed_after_the_answer(start: Start, request_head: bytes) -> None:
    """HTTP/1.0 and `Connection: close` get one answer and the end of the connection."""
    site = await start(PATIENT)
    status, headers, body = parts(await site.talk(request_head))
    assert (status, headers["connection"], body) == (200, "close", b"GET / ")


async def test_methods(start: Start) -> None:
    """Whatever the method, the front end answers; HEAD gets no body."""
    site = await start()
    for method in (b"TRACE", b"OPTIONS", b"DELETE", b"PATCH"):
        answer = await site.talk(method + b" / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert parts(answer)[2] == method + b" / "
    head = await site.talk(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert head.endswith(b"Content-Length: 7\r\n\r\n")


async def test_pipelined_in_order(start: Start) -> None:
    """Requests sent without waiting are answered in order, far more of them than are buffered at once."""
    site = await start(PATIENT)
    count = 300
    requests = [b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" % n + b"x" * 100 for n in range(count)]
    last = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = await site.talk(b"".join([*requests, last]))
    assert [request.received.target for request in site.seen] == [f"/{n}" for n in range(count)] + ["/last"]
    assert re.findall(rb"(?:POST|GET) (/\w+)", answer) == [b"/%d" % n for n in range(count)] + [b"/last"]


async def test_pipelining_is_bounded(start: Start) -> None:
    """While one request is handled, the server does not take in what comes behind it without end."""
    site = await start(PATIENT)
    site.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.transport.set_write_buffer_limits(high=1)
    sent = 0
    blocked = False
    one = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
    while not blocked and sent < 20_000:
        writer.write(one)
        sent += 1
        try:
            await asyncio.wait_for(writer.drain(), 0.5)
        except TimeoutError:
            blocked = True
    assert blocked
    assert len(site.seen) == 1
    site.gate.set()
    for _ in range(sent):
        await reader.readuntil(b"x" * 9000)
    writer.close()
    assert len(site.seen) == sent


async def test_pipelined_refusal_comes_last(start: Start) -> None:
    """Garbage behind a request is refused after that request has been answered."""
    site = await start()
    site.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET)
    await site.waiting.wait()
    writer.write(b"garbage\r\n\r\n" + GET)
    await asyncio.sleep(0.05)
    site.gate.set()
    answers = await reader.read()
    writer.close()
    first, _, second = answers.partition(b"GET / ")
    assert first.startswith(b"HTTP/1.1 200")
    refused(second, 400, "MalformedHttpRequestException")
    assert len(site.seen) == 1


async def test_expect_continue(start: Start) -> None:
    """`Expect: 100-continue` is answered before the body; one that is too large is refused instead."""
    site = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ab")
    assert (await reader.readuntil(b"POST / ab")).startswith(b"HTTP/1.1 200")
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10001\r\n\r\n")
    refused(await reader.read(), 413, "RequestEntityTooLargeException")
    writer.close()
    odd = await site.talk(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n")
    refused(odd, 400, "MalformedHttpRequestException")


async def test_expect_continue_waits_its_turn(start: Start) -> None:
    """The interim answer never overtakes the answer to the request before."""
    site = await start(PATIENT)
    site.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET + b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    await site.waiting.wait()
    site.gate.set()
    assert (await reader.readuntil(b"GET / ")).startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ab")
    assert (await reader.readuntil(b"POST / ab")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_chunked(start: Start) -> None:
    """Chunked bodies arrive whole, however they are cut; the connection ends after them."""
    site = await start(PATIENT)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pieces in (
        [b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"],
        [b"3\r", b"\nab", b"c\r\n2\r\nde\r\n", b"0\r\n", b"\r\n"],
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for piece in [head, *pieces]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        status, headers, body = parts(await reader.read())
        writer.close()
        assert (status, headers["connection"], body) == (200, "close", b"POST / abcde")


async def test_trailers_do_not_reach_the_next_request(start: Start) -> None:
    """The parser would add a chunked body's last trailer to the next request: there is none on that connection."""
    site = await start()
    await site.talk(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Amz-Target: evil\r\n\r\n"
        + GET
    )
    assert len(site.seen) == 1
    assert "evil" not in str(site.seen)


async def test_half_closed_client_gets_its_answer(start: Start) -> None:
    """A client may end its side after the request; what it pipelined is answered too."""
    site = await start()
    site.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET + GET)
    writer.write_eof()
    await site.waiting.wait()
    await asyncio.sleep(0.05)
    site.gate.set()
    answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_client_that_leaves(start: Start) -> None:
    """A request whose client goes away is finished all the same."""
    site = await start()
    site.gate = asyncio.Event()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET)
    await site.waiting.wait()
    writer.transport.abort()
    await asyncio.sleep(0.05)
    assert site.server.connections == 1
    site.gate.set()
    await asyncio.sleep(0.05)
    assert site.server.connections == 0
    assert len(site.seen) == 1


async def test_handler_that_fails(start: Start) -> None:
    """What a handler raises reaches the loop's exception handler, and never the client."""
    site = await start()
    site.failure = RuntimeError("the secret is 42")
    status, headers, body = parts(await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    assert (status, json.loads(body)) == (500, {"__type": "KMSInternalException"})
    assert UUID4.fullmatch(headers["x-amzn-requestid"])
    assert [report["exception"] for report in site.reports] == [site.failure]


async def test_answer_cannot_be_split(start: Start) -> None:
    """An answer's header with a line break is a failure, not two answers."""
    site = await start()
    for value in ("a\r\nX: b", "a\nb", "a\rb"):
        site.answer = Answer(200, (("X", value),), b"")
        answer = await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"X: b" not in answer
        assert parts(answer)[0] == 500
    assert len(site.reports) == 3
    site.reports.clear()


# --- What is refused --------------------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 3, 3\r\n\r\nabc",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length: 0x3\r\n\r\nabc",
        POST + b"Content-Length : 3\r\n\r\nabc",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        POST + b"X: a\r\n b\r\n\r\n",
        POST + b"X: a\x00b\r\n\r\n",
        POST + b"X: a\rHost: b\r\n\r\n",
        POST + b"Host: i\r\n\r\n",
        POST + b"X y: z\r\n\r\n",
        POST + b": z\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x01\x02\x03",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 64 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 5 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 5,
    ],
)
async def test_malformed(start: Start, sent: bytes) -> None:
    """Anything that two readers could read differently, or that no client of ours sends, ends the connection."""
    site = await start()
    message = refused(await site.talk(sent, GET), 400, "MalformedHttpRequestException")
    assert site.seen == []
    assert "\\x" not in message
    assert site.server.refusals == {"MalformedHttpRequestException": 1}


@pytest.mark.parametrize(
    "sent",
    [
        [POST + b"Content-Length: 10001\r\n\r\n"],
        [POST + b"Content-Length: 99999999999999999\r\n\r\n", b"x" * 100_000],
        [POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 3,
        [POST + b"Transfer-Encoding: chunked\r\n\r\n2711\r\n" + b"x" * 10_001 + b"\r\n0\r\n\r\n"],
    ],
)
async def test_too_large(start: Start, sent: list[bytes]) -> None:
    """A body over the limit is refused when its length is known, or when too much has come."""
    site = await start()
    pieces = [sent[0], *[piece for piece in sent[1:] if not piece.startswith(b"POST")]]
    message = refused(await site.talk(*pieces), 413, "RequestEntityTooLargeException")
    assert message == "The request body is larger than 10000 bytes."
    assert site.seen == []


async def test_body_of_exactly_the_limit(start: Start) -> None:
    """The limit itself is allowed."""
    site = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(POST + b"Content-Length: 10000\r\n\r\n" + b"x" * 10_000)
    assert (await reader.readuntil(b"x" * 10_000)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_body_in_too_many_chunks(start: Start) -> None:
    """A body of one-byte chunks costs far more memory than its bytes: it is cut off."""
    site = await start(replace(PATIENT, body_bytes=1_000_000))
    answer = await site.talk(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000)
    refused(answer, 400, "MalformedHttpRequestException")
    assert site.seen == []


async def test_unfinished_bodies_together(start: Start) -> None:
    """Unfinished bodies of all connections are bounded together; whoever brings too much is told to slow down."""
    site = await start(replace(PATIENT, buffered_bytes=15_000))
    _, first = await asyncio.open_connection("127.0.0.1", site.port)
    first.write(POST + b"Content-Length: 10000\r\n\r\n" + b"x" * 9_000)
    await first.drain()
    await asyncio.sleep(0.05)
    assert site.server.buffered == 9_000
    answer = await site.talk(POST + b"Content-Length: 10000\r\n\r\n" + b"x" * 9_000)
    assert refused(answer, 400, "ThrottlingException") == "Rate exceeded"
    first.write(b"x" * 1_000)
    await first.drain()
    await asyncio.sleep(0.05)
    assert len(site.seen) == 1
    first.close()


# --- Time -------------------------------------------------------------------------------------------


async def _timed_out(site: Site, sent: bytes, drip: bytes) -> tuple[bytes | None, float]:
    """What a client gets that sends so much and then drips; None if its dripping met a closed door; and when."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(sent)
    began = loop.time()

    async def dripping() -> None:
        while not writer.is_closing():
            writer.write(drip)
            await asyncio.sleep(0.03)

    task = asyncio.ensure_future(dripping())
    try:
        answer = await reader.read()
    except ConnectionError:
        answer = None
    took = loop.time() - began
    task.cancel()
    writer.close()
    assert site.seen == []
    assert site.server.refusals in ({}, {"RequestTimeoutException": 1})
    return answer, took


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: h\r\n"])
@pytest.mark.parametrize("drip", [b"", b"X"])
async def test_slow_head(start: Start, sent: bytes, drip: bytes) -> None:
    """A head that does not come to its end in time is given up, however steadily it drips."""
    answer, took = await _timed_out(await start(), sent, drip if sent else b"")
    assert LIMITS.header_seconds - 0.1 <= took < 5
    if sent and answer is not None:
        assert refused(answer, 408, "RequestTimeoutException") == "The request did not arrive in time."
    assert drip or answer is not None
    assert sent or answer == b""


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
@pytest.mark.parametrize("drip", [b"", b"x"])
async def test_slow_body(start: Start, framing: bytes, drip: bytes) -> None:
    """So is a body."""
    answer, took = await _timed_out(await start(), POST + framing, drip)
    assert LIMITS.body_seconds - 0.1 <= took < 5
    if answer is not None:
        refused(answer, 408, "RequestTimeoutException")
    assert drip or answer is not None


async def test_slow_second_head(start: Start) -> None:
    """On a connection that was kept alive, the first byte of a request starts its head's time."""
    site = await start(replace(LIMITS, keep_alive_seconds=20))
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET)
    await reader.readuntil(b"GET / ")
    writer.write(b"GET ")
    refused(await reader.read(), 408, "RequestTimeoutException")
    writer.close()


async def test_client_that_does_not_read(start: Start) -> None:
    """A client that leaves its answers unread is cut off, and the server keeps few of them."""
    site = await start(replace(PATIENT, answer_seconds=0.3))
    site.answer = Answer(200, (), b"x" * 1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
    writer.write(GET * 100)
    await asyncio.sleep(1)
    assert len(site.seen) < 20
    assert site.server.connections == 0
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(100_000_000)
    writer.close()


async def test_many_half_sent_requests(start: Start) -> None:
    """A thousand half-sent requests are all gone after the deadline, and honest ones are answered meanwhile."""
    site = await start(replace(LIMITS, connections=2_000, header_seconds=1))
    loop = asyncio.get_running_loop()
    socks = []
    for _ in range(1_000):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", site.port))
        await loop.sock_sendall(sock, b"POST / HTTP/1.1\r\nHost: ")
        socks.append(sock)
    assert site.server.connections > 900
    assert parts(await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))[0] == 200
    for sock in socks:
        refused(await loop.sock_recv(sock, 10_000), 408, "RequestTimeoutException")
        sock.close()
    await asyncio.sleep(0.1)
    assert site.server.connections == 0


# --- How many ---------------------------------------------------------------------------------------


async def test_workers_share_what_comes_at_once(start: Start) -> None:
    """A client's pool of connections, all opened in one go, is not left to one of the workers on the socket."""
    one = await start()
    other = Site()
    listener = Listener(socket.socket(fileno=os.dup(one.listening.fileno())))
    other.server = await serve(other.handle, [listener], LIMITS)
    clients = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(20)]  # in one turn of both loops
    for client in clients:
        client.setblocking(False)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.sock_sendall(client, GET) for client in clients))
    await asyncio.gather(*(loop.sock_recv(client, 1) for client in clients))
    assert abs(one.server.connections - other.server.connections) <= 2
    for client in clients:
        client.close()
    await other.server.stop(1)


async def test_resting_connections_make_room(start: Start) -> None:
    """At the limit, the connection that has rested longest is closed for a new one."""
    site = await start(replace(PATIENT, connections=3))
    pairs = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(GET)
        await reader.readuntil(b"GET / ")
        pairs.append((reader, writer))
    pairs[0][1].write(GET)
    await pairs[0][0].readuntil(b"GET / ")
    assert parts(await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))[0] == 200
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await pairs[1][0].readexactly(1)
    for reader, writer in (pairs[0], pairs[2]):
        writer.write(GET)
        await reader.readuntil(b"GET / ")
    for _, writer in pairs:
        writer.close()


async def test_unfinished_connections_make_room(start: Start) -> None:
    """Then those whose request does not come to its end; honest clients get through."""
    site = await start(replace(PATIENT, connections=3))
    writers = []
    for sent in (b"GET / ", b"", POST + b"Content-Length: 10\r\n\r\nx"):
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(sent)
        writers.append(writer)
    await asyncio.sleep(0.05)
    for _ in range(4):
        assert parts(await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))[0] == 200
    assert site.server.connections <= 3
    for writer in writers:
        writer.close()


async def test_busy_connections_are_left_alone(start: Start) -> None:
    """When all are at work, a new connection is told so and closed."""
    site = await start(replace(PATIENT, connections=2))
    site.gate = asyncio.Event()
    pairs = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
    for _, writer in pairs:
        writer.write(GET)
    await asyncio.sleep(0.1)
    assert len(site.seen) == 2
    assert refused(await site.talk(), 400, "ThrottlingException") == "Rate exceeded"
    site.gate.set()
    for reader, writer in pairs:
        await reader.readuntil(b"GET / ")
        writer.close()


# --- Stopping ---------------------------------------------------------------------------------------


async def test_stop_finishes_what_is_under_way(start: Start) -> None:
    """On stop: nothing new is accepted, resting connections close, requests under way are answered."""
    site = await start(PATIENT)
    site.gate = asyncio.Event()
    resting = await asyncio.open_connection("127.0.0.1", site.port)
    busy = await asyncio.open_connection("127.0.0.1", site.port)
    half = await asyncio.open_connection("127.0.0.1", site.port)
    half[1].write(b"GET / HTTP/1.1\r\nHo")
    busy[1].write(GET)
    await site.waiting.wait()
    await asyncio.sleep(0.05)
    stopping = asyncio.ensure_future(site.server.stop(10))
    assert await resting[0].read() == b""
    half[1].write(b"st: h\r\n\r\n")
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection("127.0.0.1", site.port)
    site.gate.set()
    for reader, _ in (busy, half):
        status, headers, _ = parts(await reader.read())
        assert (status, headers["connection"]) == (200, "close")
    assert await stopping == 0
    for _, writer in (resting, busy, half):
        writer.close()


async def test_stop_cuts_off_after_the_grace(start: Start) -> None:
    """What does not finish within the grace is cancelled and counted."""
    site = await start(PATIENT)
    site.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(GET)
    await site.waiting.wait()
    assert await site.server.stop(0.1) == 1
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_stop_gives_resting_connections_a_last_request(start: Start) -> None:
    """Brought within the rest it is answered, with `Connection: close`; who brings nothing is closed after it."""
    site = await start(PATIENT)
    coming = await asyncio.open_connection("127.0.0.1", site.port)
    silent = await asyncio.open_connection("127.0.0.1", site.port)
    await asyncio.sleep(0.05)
    stopping = asyncio.ensure_future(site.server.stop(10, 0.5))
    await asyncio.sleep(0.1)
    coming[1].write(GET)
    status, headers, _ = parts(await coming[0].read())
    assert (status, headers["connection"]) == (200, "close")
    assert not stopping.done()
    assert await silent[0].read() == b""
    assert await stopping == 0
    for _, writer in (coming, silent):
        writer.close()


@pytest.mark.parametrize("turns", range(4))
async def test_stop_answers_everybody_whom_it_has_accepted(start: Start, turns: int) -> None:
    """Also those that were accepted as the stop began. Who was not waits for the next server on the socket."""
    site = await start(PATIENT)
    loop = asyncio.get_running_loop()
    kept = site.server._listeners[0].sock.dup()
    clients = [socket.socket() for _ in range(40)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", site.port))
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping = asyncio.ensure_future(site.server.stop(10, 2.0))
    await asyncio.sleep(0.05)
    waiting = 0
    with suppress(BlockingIOError):
        while True:
            kept.accept()[0].close()
            waiting += 1
    answers = []
    for client in clients:
        with suppress(ConnectionError):
            await loop.sock_sendall(client, GET)
            answers.append(await asyncio.wait_for(loop.sock_recv(client, 65536), 5))
        client.close()
    assert [parts(answer)[0] for answer in answers if answer] == [200] * (len(clients) - waiting)
    assert await stopping == 0
    kept.close()


# --- Listeners --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "permitted"), [("127.0.0.1", True), ("127.3.2.1", True), ("0.0.0.0", False)])  # noqa: S104
def test_plain_http_on_loopback_only(host: str, *, permitted: bool) -> None:
    """Plain HTTP is refused on any address that other hosts can reach; with TLS it is no matter."""
    sock = bind_tcp(host, 0)
    listener_permitted(sock, tls=True)
    if permitted:
        listener_permitted(sock, tls=False)
    else:
        with pytest.raises(ListenerRefused, match="plain HTTP is served on loopback addresses and Unix sockets only"):
            listener_permitted(sock, tls=False)
    sock.close()


def test_plain_http_on_ipv6() -> None:
    """The same holds for IPv6, mapped addresses included."""
    for host, permitted in (("::1", True), ("::ffff:127.0.0.1", True), ("::", False)):
        try:
            sock = bind_tcp(host, 0)
        except ListenerRefused as refusal:
            pytest.skip(f"no IPv6 here: {refusal}")
        try:
            if permitted:
                listener_permitted(sock, tls=False)
            else:
                with pytest.raises(ListenerRefused):
                    listener_permitted(sock, tls=False)
        finally:
            sock.close()


async def test_refused_listener_serves_nothing() -> None:
    """`serve` itself refuses; there is no way around it."""
    sock = bind_tcp("0.0.0.0", 0)  # noqa: S104

    async def never(request: Request) -> Answer:
        raise AssertionError(request)

    with pytest.raises(ListenerRefused):
        await serve(never, [Listener(sock)])
    sock.close()


async def test_unix_socket(tmp_path: Path) -> None:
    """A Unix socket serves plain HTTP, is its owner's alone, and is replaced only when nobody listens on it."""
    path = tmp_path / "kmsd.sock"
    seen = []

    async def handle(request: Request) -> Answer:
        seen.append(request.peer)
        return Answer(200, (), b"ok")

    for _ in range(2):
        server = await serve(handle, [Listener(bind_unix(path))], LIMITS)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ListenerRefused, match="somebody listens there already"):
            bind_unix(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"ok")
        writer.close()
        await server.stop(1)
    assert seen == ["", ""]
    path.unlink(missing_ok=True)
    path.write_text("precious")
    with pytest.raises(ListenerRefused, match="is no socket"):
        bind_unix(path)
    assert path.read_text() == "precious"


async def test_inherited_socket(start: Start) -> None:
    """A listening socket can come from the parent process; Nagle's algorithm is off on what is accepted from it."""
    site = await start()
    bare = socket.create_server(("127.0.0.1", 0))
    descriptor = os.dup(bare.fileno())
    bare.close()
    sock = inherited(descriptor)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    port = sock.getsockname()[1]
    server = await serve(site.handle, [Listener(sock)], LIMITS)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"GET / ")
    writer.close()
    await server.stop(1)


def test_odd_descriptors(tmp_path: Path) -> None:
    """What is no listening socket is refused by name."""
    with (tmp_path / "f").open("w") as file, pytest.raises(ListenerRefused, match="is no socket"):
        inherited(file.fileno())
    with socket.socket() as sock, pytest.raises(ListenerRefused, match="does not listen"):
        inherited(sock.fileno())
    with pytest.raises(ListenerRefused, match="cannot listen on no-such-host"):
        bind_tcp("no-such-host.invalid", 0)
    taken = bind_tcp("127.0.0.1", 0)
    with pytest.raises(ListenerRefused, match="in use"):
        bind_tcp("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_no_start_without_the_c_parser() -> None:
    """With aiohttp's pure-Python parser the server does not start, and says why."""
    code = (
        "import asyncio\n"
        "from kmsd.wire.transport import Listener, PurePythonParser, bind_tcp, serve\n"
        "try:\n    asyncio.run(serve(print, [Listener(bind_tcp('127.0.0.1', 0))]))\n"
        "except PurePythonParser as refusal:\n    print(refusal)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("aiohttp runs without its C parser")


def test_request_ids() -> None:
    """Request ids are random UUIDs of version 4, and differ."""
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(UUID4.fullmatch(text) for text in ids)


# --- Fuzz -------------------------------------------------------------------------------------------

SEEDS = [
    GET,
    b"GET / HTTP/1.0\r\n\r\n",
    POST + b"Content-Length: 3\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00",
]
ODD = [
    b"\r",
    b"\n",
    b"\0",
    b"\xff",
    b" ",
    b":",
    b";",
    b"\r\n\r\n",
    b"0",
    b"9" * 30,
    b"%",
    b"Host: h\r\n",
    b"\t",
    b"a" * 9000,
]


async def test_fuzz(start: Start) -> None:
    """Whatever is sent, in whatever pieces: whole answers of ours or none, no report, no connection left over."""
    site = await start(
        replace(LIMITS, header_seconds=0.1, body_seconds=0.1, keep_alive_seconds=0.1, linger_seconds=0.1)
    )
    chance = random.Random(20261122)  # noqa: S311  # a repeatable choice of inputs, no secret

    def mutated() -> bytes:
        text = b"".join(chance.choices(SEEDS, k=chance.randint(1, 3)))
        for _ in range(chance.randint(0, 4)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice([*ODD, b""]) + text[at + chance.randint(0, 3) :]
        return text

    async def one() -> None:
        text = mutated()
        cut = chance.randrange(len(text) + 1)
        try:
            answer = await site.talk(text[:cut], text[cut:])
        except ConnectionError:
            return
        assert re.fullmatch(rb"(HTTP/1\.1 (100|200|400|408|413) .*)?", answer, re.DOTALL), (text, answer)
        assert b"Traceback" not in answer

    for _ in range(60):
        await asyncio.gather(*(one() for _ in range(20)))
