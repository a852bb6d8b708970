"""TCP proxy between nodes and database servers, in a process of its own: it cuts, delays and holds what passes.

Each node has an address for each place of a server, of which there are two: those of primary and standby. Which server
stands there changes with each failover. A host that is held accepts connections, and nothing passes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from typing import Any, Self

import uvloop

_CHUNK_BYTES = 65536


class _Proxy:
    """The work of the process, on its event loop."""

    def __init__(self, nodes: int, targets: list[int]) -> None:
        self._targets = targets
        self._delays = [0.0] * nodes
        self._open: list[set[asyncio.StreamWriter]] = [set() for _ in range(nodes)]
        self._passes = [asyncio.Event() for _ in range(nodes)]
        for one in self._passes:
            one.set()

    async def listen(self) -> list[list[int]]:
        """Return the ports, by node and place."""
        return [
            [await self._port(node, place) for place in range(len(self._targets))] for node in range(len(self._delays))
        ]

    async def _port(self, node: int, place: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(node, place, reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(self, node: int, place: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[node].add(writer)
        try:
            await self._passes[node].wait()
            with suppress(OSError):
                theirs, ours = await asyncio.open_connection("127.0.0.1", self._targets[place])
                self._open[node].add(ours)
                await self._both(node, (reader, ours), (theirs, writer))
                self._open[node].discard(ours)
        finally:
            self._open[node].discard(writer)
            writer.transport.abort()

    async def _both(self, node: int, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Forward until one side ends; then end the other."""
        tasks = [asyncio.create_task(self._forward(node, *way)) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for _, writer in ways:
            writer.transport.abort()

    async def _forward(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self._delays[node]:
                    await asyncio.sleep(self._delays[node])
                await self._passes[node].wait()
                writer.write(chunk)
                await writer.drain()

    def target(self, place: int, port: int) -> None:
        """Let new connections to a place lead to another server."""
        self._targets[place] = port

    def cut(self, node: int) -> None:
        """End all connections of a node."""
        for writer in self._open[node]:
            writer.transport.abort()

    def delay(self, node: int, seconds: float) -> None:
        """Let everything from and to a node take longer, in each direction."""
        self._delays[node] = seconds

    def hold(self, node: int) -> None:
        """Let nothing pass from and to a node."""
        self._passes[node].clear()

    def resume(self, node: int) -> None:
        """Let everything pass that was held."""
        self._passes[node].set()


async def _run(pipe: Pipe, nodes: int, targets: list[int]) -> None:
    proxy, ended = _Proxy(nodes, targets), asyncio.Event()
    pipe.send(await proxy.listen())

    def obey() -> None:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            ended.set()
            return
        getattr(proxy, name)(*arguments)
        pipe.send(None)

    asyncio.get_running_loop().add_reader(pipe.fileno(), obey)
    await ended.wait()


def _work(pipe: Pipe, nodes: int, targets: list[int]) -> None:
    uvloop.run(_run(pipe, nodes, targets))


class DatabaseProxy:
    """A running proxy; a command has taken effect when it returns."""

    def __init__(self, nodes: int, targets: Sequence[int]) -> None:
        """`targets`: ports of the servers, by place."""
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, nodes, list(targets)), daemon=True)
        self._process.start()
        theirs.close()
        self.ports: list[list[int]] = self._pipe.recv()

    def _say(self, *command: Any) -> None:
        self._pipe.send(command)
        self._pipe.recv()

    def target(self, place: int, port: int) -> None:
        """Let new connections to a place lead to another server."""
        self._say("target", place, port)

    def cut(self, node: int) -> None:
        """End all connections of a node."""
        self._say("cut", node)

    def delay(self, node: int, seconds: float) -> None:
        """Let everything from and to a node take longer, in each direction."""
        self._say("delay", node, seconds)

    def hold(self, node: int) -> None:
        """Let nothing pass from and to a node."""
        self._say("hold", node)

    def resume(self, node: int) -> None:
        """Let everything pass that was held."""
        self._say("resume", node)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
