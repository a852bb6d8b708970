"""How the transport bears many clients, how it stops, and which sockets it takes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from kmsd.wire.http.server import (
    Listener,
    ListenerRefused,
    Request,
    Response,
    bind_tcp,
    bind_unix,
    inherited,
    listener_permitted,
    new_request_id,
    serve,
)
from tests.support.transport_site import GET, LIMITS, PATIENT, POST, UUID4, Site, Start, parts, refused

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
    await site.until_seen(2)
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

    async def never(request: Request) -> Response:
        raise AssertionError(request)

    with pytest.raises(ListenerRefused):
        await serve(never, [Listener(sock)])
    sock.close()


async def test_unix_socket(tmp_path: Path) -> None:
    """A Unix socket serves plain HTTP, is its owner's alone, and is replaced only when nobody listens on it."""
    path = tmp_path / "kmsd.sock"
    seen = []

    async def handle(request: Request) -> Response:
        seen.append(request.peer)
        return Response(200, (), b"ok")

    for _ in range(2):
        server = await serve(handle, [Listener(bind_unix(path))], LIMITS)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ListenerRefused, match="another process already listens there"):
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
        "from kmsd.wire.http.server import Listener, CParserMissing, bind_tcp, serve\n"
        "try:\n    asyncio.run(serve(print, [Listener(bind_tcp('127.0.0.1', 0))]))\n"
        "except CParserMissing as refusal:\n    print(refusal)\n"
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
