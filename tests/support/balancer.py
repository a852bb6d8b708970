"""A load balancer of TCP connections, as operators have before several nodes: it asks each for `/readyz`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PERIOD_SECONDS = 0.1
"""Seconds between two questions to a node."""


class _Balancer:
    def __init__(self, ports: Sequence[int]) -> None:
        self.ready: dict[int, bool] = dict.fromkeys(ports, True)
        self.port = 0
        self._next = 0

    async def run(self, started: threading.Event, over: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        asking = [asyncio.create_task(self._ask(port)) for port in self.ready]
        await over.wait()
        server.close()
        for task in asking:
            task.cancel()

    async def _ask(self, port: int) -> None:
        while True:
            self.ready[port] = await self._is_ready(port)
            await asyncio.sleep(PERIOD_SECONDS)

    @staticmethod
    async def _is_ready(port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to a node that is ready, in turn; one that refuses is left out."""
        with contextlib.closing(writer):
            for port in self._in_turn():
                try:
                    from_node, to_node = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                with contextlib.closing(to_node):
                    await asyncio.gather(_carry(reader, to_node), _carry(from_node, writer))
                return

    def _in_turn(self) -> list[int]:
        self._next += 1
        ports = list(self.ready)
        turned = [ports[(self._next + number) % len(ports)] for number in range(len(ports))]
        return sorted(turned, key=lambda port: not self.ready[port])


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


@contextmanager
def balancer(ports: Sequence[int]) -> Iterator[int]:
    """The port of a balancer before these ports of 127.0.0.1, during the block."""
    found, started, ended = _Balancer(ports), threading.Event(), []

    async def run() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.append(lambda: loop.call_soon_threadsafe(over.set))
        await found.run(started, over)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield found.port
    finally:
        ended[0]()
        thread.join(10)
