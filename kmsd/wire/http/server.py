"""HTTP server: listeners, limits, deadlines and shutdown. Handlers get complete requests and return responses.

Everything here runs on one event loop, asyncio's or uvloop's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate

import msgspec

from kmsd.event_loop.cohorts import CohortScheduler
from kmsd.event_loop.tasks import cancel_and_wait
from kmsd.wire.http.connection import Connection
from kmsd.wire.http.connection_state import State
from kmsd.wire.http.limits import TransportLimits
from kmsd.wire.http.listeners import BACKLOG, ListenerRefused, bind_tcp, bind_unix, inherited, listener_permitted
from kmsd.wire.http.messages import Request, Response, Tls, error_answer, new_request_id
from kmsd.wire.http.parser import CParserMissing, require_c_parser
from kmsd.wire.http.tls import tls_context

__all__ = [
    "CParserMissing",
    "Listener",
    "ListenerRefused",
    "Request",
    "Response",
    "Server",
    "Tls",
    "TransportLimits",
    "bind_tcp",
    "bind_unix",
    "error_answer",
    "inherited",
    "listener_permitted",
    "new_request_id",
    "serve",
    "tls_context",
]

Handler = Callable[[Request], Awaitable[Response]]

TURN = 4
"""Connections that a process accepts on a shared listener before it leaves the next ones to others."""
TURN_SECONDS = 0.001
"""Pause after each turn: longer than an idle process takes to wake up and accept."""


class Listener(msgspec.Struct):
    """A bound socket to accept on, with its TLS context."""

    sock: socket.socket
    tls: ssl.SSLContext | None = None
    """May be replaced while the server runs: connections accepted afterwards use the new one."""
    is_shared: bool = False
    """True if other processes accept on the same socket."""


async def serve(
    handler: Handler,
    listeners: Sequence[Listener],
    limits: TransportLimits | None = None,
    cohorts: CohortScheduler | None = None,
) -> Server:
    """Start serving; on return every listener accepts. Stop with `Server.stop`.

    `handler` is awaited once for each complete request. Calls for one connection never overlap; calls for different
    connections do. It is not cancelled when its client disconnects. An exception from it is answered 500 and reported
    to the loop's exception handler. `cohorts` counts the requests in flight. Raises `CParserMissing` or
    `ListenerRefused` before anything is accepted.
    """
    require_c_parser()
    for listener in listeners:
        listener_permitted(listener.sock, tls=listener.tls is not None)
    server = Server(handler, limits or TransportLimits(), cohorts or CohortScheduler())
    await server.start(listeners)
    return server


class Server:
    """All connections of one worker."""

    def __init__(self, handler: Handler, limits: TransportLimits, cohorts: CohortScheduler) -> None:
        self.handler = handler
        self.limits = limits
        self.cohorts = cohorts
        self.draining = False
        self.keep_alive_seconds = limits.keep_alive_seconds
        """Maximum idle time of a connection. While draining: the time in which it may still send its last request."""
        self.buffered = 0
        """Bytes of unfinished bodies."""
        self.refusals: Counter[str] = Counter()
        """Requests that the transport itself refused, by error name; for metrics."""
        self.common = ""
        """Header lines of every response; the sweep keeps the date fresh."""
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        idle, unfinished, others = (OrderedDict[Connection, None]() for _ in range(3))
        self.waiting: Mapping[State, OrderedDict[Connection, None]] = {
            State.IDLE: idle,
            State.OPENING: unfinished,
            State.BODY: unfinished,
            State.BUSY: others,
            State.LINGERING: others,
        }
        """Connections by state, in the order in which they entered it: which one is closed first when all places are
        taken."""
        self._handshakes = 0
        self._arriving: set[asyncio.Future[None]] = set()
        """Accepted sockets that are about to become connections."""
        self._empty = asyncio.Event()
        self._listeners: Sequence[Listener] = ()
        self._accepted = 0
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def connections(self) -> int:
        """Return the number of open connections, handshakes included; for metrics."""
        return len(self._connections) + self._handshakes

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Accept on `listeners`. Called by `serve`."""
        self._listeners = listeners
        self._refresh_date()
        self._start(self._sweep())
        for listener in listeners:
            listener.sock.listen(BACKLOG)
            listener.sock.setblocking(False)
            self._loop.add_reader(listener.sock, self._accept, listener)

    async def stop(self, grace: float, rest: float = 0.0) -> int:
        """Stop accepting, wait `grace` seconds for requests in flight, close. Return the number of requests cut off.

        An idle connection may send one more request within `rest` seconds, which is answered with
        `Connection: close`. Closed at once, it would collide with a request that its client is just sending. A
        handler that is cut off is cancelled at its current await.
        """
        # Connections accepted a moment ago read both when they are created.
        self.draining, self.keep_alive_seconds = True, rest
        await self._stop_accepting()
        self.drain(rest)
        try:
            async with asyncio.timeout(grace):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            # The remaining requests are cut off below, and counted.
            pass
        await cancel_and_wait(self._tasks)
        return await self._cut_off()

    def drain(self, rest: float) -> None:
        """Give idle connections `rest` seconds from now, replacing `stop`'s own. Does nothing unless `stop` runs."""
        if self.draining:
            self.keep_alive_seconds = rest
            for connection in list(self._connections):
                connection.drain(rest)

    async def _stop_accepting(self) -> None:
        """Close the listeners. On return every accepted socket is a connection or in its handshake."""
        listeners, self._listeners = self._listeners, ()
        for listener in listeners:
            self._loop.remove_reader(listener.sock)
        for listener in listeners:
            listener.sock.close()
        while self._arriving:
            await asyncio.wait(self._arriving)

    async def _cut_off(self) -> int:
        left = list(self._connections)
        tasks = [connection.task for connection in left if connection.task is not None]
        for connection in left:
            connection.abort()
        await cancel_and_wait(tasks)
        return len(tasks)

    # --- What connections call ----------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Register a new connection, closing an idle one if necessary. Return False if the server is full."""
        if not self._evict_idle():
            return False
        self._connections.add(connection)
        self.waiting[connection.state][connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed and has no task running."""
        for group in self.waiting.values():
            group.pop(connection, None)
        self._connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def report(self, what: str, error: BaseException, connection: Connection) -> None:
        """Report to the loop's exception handler a failure that no client may see."""
        self._loop.call_exception_handler({"message": what, "exception": error, "protocol": connection})

    # --- Accepting ----------------------------------------------------------------------------------

    def _connection(self) -> Connection:
        return Connection(self, self._loop)

    def _evict_idle(self) -> bool:
        if self.connections < self.limits.connections:
            return True
        for group in (self.waiting[State.IDLE], self.waiting[State.OPENING]):
            if group:
                longest, _ = group.popitem(last=False)
                self._connections.discard(longest)
                longest.abort()
                return True
        return False

    def _accept(self, listener: Listener) -> None:
        """Accept one connection. Leave a shared listener to the other workers after every `TURN` of them.

        Not through the loop's own server: it takes every connection that is waiting, so one worker would get all of a
        client's pool and the others none. It also counts no handshakes and keeps one context. Nor through the loop's
        `sock_accept`: cancelled at the wrong instant, it drops the connection that it has just accepted. The pause is
        there because a worker that is awake is faster than those that must wake up
        (docs/decisions/0067-turns-at-the-listener.md).
        """
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            # Another worker was faster.
            return
        except OSError as error:
            # The process is out of descriptors, or the client disconnected: the listener itself is fine.
            self._loop.call_exception_handler({"message": "accepting a connection failed", "exception": error})
            self._pause(listener, 0.1)
            return
        self._accepted += 1
        if listener.is_shared and self._accepted % TURN == 0:
            self._pause(listener, TURN_SECONDS)
        sock.setblocking(False)
        if listener.tls is None:
            arriving = self._start(self._admit(sock))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)
        elif self._evict_idle():
            self._handshakes += 1
            self._start(self._handshake(sock, listener.tls)).add_done_callback(
                lambda task: self._on_handshake_done(task, sock)
            )
        else:
            sock.close()

    def _pause(self, listener: Listener, seconds: float) -> None:
        """Accept nothing on the listener for some seconds."""
        self._loop.remove_reader(listener.sock)
        self._loop.call_later(seconds, self._accept_again, listener)

    def _accept_again(self, listener: Listener) -> None:
        if not self.draining:
            self._loop.add_reader(listener.sock, self._accept, listener)

    async def _admit(self, sock: socket.socket) -> None:
        """Make the socket a connection, a few loop iterations later."""
        try:
            await self._loop.connect_accepted_socket(self._connection, sock)
        except OSError:
            # The client disconnected.
            sock.close()

    async def _handshake(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._connection,
                sock,
                ssl=context,
                ssl_handshake_timeout=self.limits.header_seconds,
                ssl_shutdown_timeout=self.limits.linger_seconds,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            # Caused by the client: plain HTTP, an old protocol, no certificate, silence, or it disconnected.
            self.refusals["TlsHandshake"] += 1
            sock.close()

    def _on_handshake_done(self, task: asyncio.Future[None], sock: socket.socket) -> None:
        self._handshakes -= 1
        if task.cancelled():
            sock.close()
        if not self.connections:
            self._empty.set()

    # --- Time ---------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Call `expire` on each connection whose deadline has passed.

        One pass over all connections (60 µs for 1,000) replaces a timer for each request (1 µs or more each).
        """
        limits = self.limits
        shortest = min(limits.header_seconds, limits.body_seconds, limits.keep_alive_seconds, limits.linger_seconds)
        while True:
            await asyncio.sleep(min(0.5, shortest / 8))
            self._refresh_date()
            now = self._loop.time()
            for connection in [one for one in self._connections if one.deadline <= now]:
                connection.expire(now)

    def _refresh_date(self) -> None:
        # Send no version: it would tell an attacker which holes to try. SDKs correct their clocks by Date.
        self.common = f"Server: kmsd\r\nDate: {formatdate(usegmt=True)}\r\n"

    def _start(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Future[None]) -> None:
        """Report a task that failed: without its sweep, the server would look healthy and enforce no deadline."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": "a task of the server failed", "exception": error})
