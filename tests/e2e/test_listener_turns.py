"""A listener that several processes share: each leaves connections to the others."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from kmsd.wire.http.messages import Request, Response
from kmsd.wire.http.server import TURN, Listener, serve
from tests.support.transport_site import GET, PATIENT

CLIENTS = 10 * TURN


async def _answered(port: int, stack: AsyncExitStack) -> None:
    """Connect, ask, and keep the connection until the end of the stack."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.push_async_callback(writer.wait_closed)
    stack.callback(writer.close)
    writer.write(GET)
    assert b"200" in await reader.readline()


async def test_all_clients_are_answered_and_no_server_has_all() -> None:
    """Two servers on one socket, each with a process's share of it."""
    answered: Counter[str] = Counter()

    def handler(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def handle(_: Request) -> Response:
            answered[name] += 1
            return Response(200, (), b"")

        return handle

    async with AsyncExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as sock:
            port = sock.getsockname()[1]
            for name in ("first", "second"):
                server = await serve(handler(name), [Listener(sock.dup(), is_shared=True)], PATIENT)
                stack.push_async_callback(server.stop, 5.0)
            await asyncio.gather(*(_answered(port, stack) for _ in range(CLIENTS)))
    assert answered.total() == CLIENTS
    assert min(answered["first"], answered["second"]) >= TURN
