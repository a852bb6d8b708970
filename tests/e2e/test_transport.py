"""The transport over real sockets: what is answered, what is refused, and when connections end."""

from __future__ import annotations

import asyncio
import json
import random
import re

import pytest
from msgspec.structs import replace

from kmsd.wire.http.server import Response
from tests.support.transport_site import GET, LIMITS, PATIENT, POST, UUID4, Start, parts, refused

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
        site.answer = Response(200, (("X", value),), b"")
        answer = await site.talk(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"X: b" not in answer
        assert parts(answer)[0] == 500
    assert len(site.reports) == 3
    site.reports.clear()


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
