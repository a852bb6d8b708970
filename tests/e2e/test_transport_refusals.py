"""What the transport refuses, on real sockets: malformed, oversized and slow requests."""

from __future__ import annotations

import asyncio
import socket

import pytest
from msgspec.structs import replace

from kmsd.wire.http.server import Response
from tests.support.polling import until_async
from tests.support.transport_site import GET, LIMITS, PATIENT, POST, Site, Start, parts, refused

# --- What is refused --------------------------------------------------------------------------------


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
    site.answer = Response(200, (), b"x" * 1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
    writer.write(GET * 100)
    async with asyncio.timeout(60):
        while site.server.connections:  # noqa: ASYNC110 (a deadline of the server's)
            await asyncio.sleep(0.01)
    assert 0 < len(site.seen) < 20
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(100_000_000)
    writer.close()


async def test_many_half_sent_requests(start: Start) -> None:
    """A thousand half-sent requests are all refused at their deadline, and honest ones are answered meanwhile."""
    site = await start(replace(LIMITS, connections=2_000, header_seconds=1))
    loop = asyncio.get_running_loop()
    socks = []
    for _ in range(1_000):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", site.port))
        await loop.sock_sendall(sock, b"POST / HTTP/1.1\r\nHost: ")
        socks.append(sock)
    assert parts(await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))[0] == 200
    for sock in socks:
        refused(await loop.sock_recv(sock, 10_000), 408, "RequestTimeoutException")
        sock.close()
    await until_async(lambda: site.server.connections == 0)
