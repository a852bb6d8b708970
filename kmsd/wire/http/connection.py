"""One client's connection: parse bytes into requests, await the handler for each, and write the responses.

`connection_state.TRANSITIONS` has its states. Of aiohttp it uses the compiled parser alone
(docs/decisions/0004-http-front.md).
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

from kmsd.errors import (
    KMSInternalException,
    MalformedHttpRequestException,
    RequestTimeoutException,
    ServiceError,
    ThrottlingException,
)
from kmsd.wire.http.connection_state import TRANSITIONS, Event, State
from kmsd.wire.http.messages import (
    Request,
    Tls,
    check_head,
    error_answer,
    expectation_refusal,
    head_size,
    head_too_long,
    new_request_id,
    rendered_pieces,
    too_large,
)
from kmsd.wire.http.owner import Owner
from kmsd.wire.http.parser import NotHttp, new_parser, parse_refusal
from kmsd.wire.sigv4.claim import RawRequest

NEVER = math.inf


class Connection(asyncio.Protocol):
    """Reads requests, has them handled one after the other, and writes the responses in order.

    For pipelined requests, "it MUST send the corresponding responses in the same order that the requests were received"
    (RFC 9112, section 9.3.2).
    """

    __slots__ = (
        "_body",
        "_continue_pending",
        "_drained",
        "_eof",
        "_flooded",
        "_head_bytes",
        "_loop",
        "_message",
        "_parser",
        "_payload",
        "_peer",
        "_queue",
        "_reading",
        "_server",
        "_tls",
        "_transport",
        "deadline",
        "state",
        "task",
    )

    def __init__(self, server: Owner[Connection], loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._peer = ""
        self._tls: Tls | None = None
        self.state = State.OPENING
        self.deadline = NEVER
        """Time at which the server's sweep calls `expire`."""
        self.task: asyncio.Task[None] | None = None
        """The task that answers requests, while there are any."""
        self._queue: list[Request | ServiceError] = []
        """Complete requests in order; only the last entry can be a refusal."""
        self._message: Any = None
        self._payload: Any = None
        self._body: bytes | bytearray = b""
        self._head_bytes = 0
        self._continue_pending = self._flooded = self._eof = False
        self._reading = True
        self._drained: asyncio.Future[None] | None = None
        """Set while the client reads responses more slowly than they are written."""

    # --- What the event loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, or refuse it."""
        # Stream servers create only transports of this type, though uvloop's do not declare it.
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self.state = State.LINGERING
            self._server.refusals["ConnectionLimit"] += 1
            self._write_last(ThrottlingException("Rate exceeded"))
            self._transport.close()
            return
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._tls = Tls(tls.version(), tls.cipher()[0])
        limits = self._server.limits
        self._parser = new_parser(self, self._loop, limits)
        draining = self._server.draining
        self.deadline = self._loop.time() + (self._server.keep_alive_seconds if draining else limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes; start on requests that are complete."""
        if self.state is State.LINGERING:
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except NotHttp as error:
            self._refuse(parse_refusal(error))
            return
        if self._message is not None:
            # The parser goes on to the next head only after the end of this body.
            self._continue_body()
        elif not messages:
            self._continue_head(len(data))
        for message, payload in messages:
            self._start_request(message, payload, len(data))

    def eof_received(self) -> bool:
        """Close, unless a request is being answered: a client may shut down its side and wait for the answer."""
        self._eof = True
        return self.task is not None and self._tls is None

    def pause_writing(self) -> None:
        """Stop answering until the client reads again."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Resume answering: the client reads again."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection. A request in flight is still finished: it may have changed something."""
        del exc  # a reset is treated like a close
        self._transport = None
        self._parser = None
        self.state = State.LINGERING
        self.deadline = NEVER
        self._queue.clear()
        self._drop_body()
        self.resume_writing()
        if self.task is None:
            self._server.remove(self)

    # --- What aiohttp's stream calls ----------------------------------------------------------------

    def pause_reading(self) -> None:
        """Note that the stream holds more pieces than any honest body has."""
        self._flooded = True

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        """Do nothing at the end of the stream: nothing was paused for it."""

    # --- What the server calls ----------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Handle a passed deadline: answer with a timeout if a request had begun, and close."""
        if self.state is State.LINGERING or self.state is State.BUSY:
            # The client was refused and keeps its side open, or does not read its answer.
            self.abort()
        elif self.state is State.BODY or self._head_bytes:
            self._refuse(RequestTimeoutException("The request did not arrive in time."))
        else:
            self._close()
        if self.deadline <= now:
            self.deadline = NEVER

    def abort(self) -> None:
        """Close now; unsent bytes are dropped."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self, rest: float) -> None:
        """Close after `rest` seconds without a request, unless one has begun. Called when the server stops."""
        if self.state is State.IDLE or (self.state is State.OPENING and not self._head_bytes):
            if rest > 0:
                self.deadline = min(self.deadline, self._loop.time() + rest)
            else:
                self._close()

    # --- Reading ------------------------------------------------------------------------------------

    def _continue_head(self, count: int) -> None:
        """Count more bytes of an incomplete head."""
        if self.state is State.IDLE:
            self._enter(Event.FIRST_BYTES, self._server.limits.header_seconds)
        self._head_bytes += count
        if self._head_bytes > self._server.limits.header_bytes:
            self._refuse(head_too_long())

    def _start_request(self, message: Any, payload: Any, count: int) -> None:
        """Start on a request whose head is complete, and perhaps its body; not if one before it was refused."""
        if self.state is State.LINGERING:
            return
        limits = self._server.limits
        if self._head_bytes + count > limits.header_bytes and head_size(message) > limits.header_bytes:
            self._refuse(head_too_long())
            return
        self._head_bytes = 0
        refusal = check_head(message, limits.body_bytes)
        if refusal is not None:
            self._refuse(refusal)
        elif payload.is_eof() and not self._flooded:
            body = payload.read_nowait()
            if len(body) > limits.body_bytes:
                self._refuse(too_large(limits.body_bytes))
            else:
                self._enqueue(message, body)
        else:
            self._start_body(message, payload)

    def _start_body(self, message: Any, payload: Any) -> None:
        expectation = message.headers.get("Expect")
        if expectation is not None and (refusal := expectation_refusal(expectation)) is not None:
            self._refuse(refusal)
            return
        self._message, self._payload = message, payload
        if self.task is None:
            self._enter(Event.HEAD, self._server.limits.body_seconds)
        # RFC 9110, section 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST
        # ignore that expectation."
        self._continue_pending = expectation is not None and message.version[1] == 1
        self._continue_body()
        if self._continue_pending:
            self._send_continue()

    def _continue_body(self) -> None:
        """Take what the stream holds of the body; enqueue the request when it is complete."""
        piece, whole = self._payload.read_nowait(), self._payload.is_eof()
        if self._body and not whole and isinstance(self._body, bytes):
            # Gather many pieces in a bytearray. Two pieces, the usual case, are joined once.
            self._body = bytearray(self._body)
        self._body += piece
        server = self._server
        server.buffered += len(piece)
        if self._flooded:
            self._refuse(MalformedHttpRequestException("The body comes in too many chunks."))
        elif len(self._body) > server.limits.body_bytes:
            self._refuse(too_large(server.limits.body_bytes))
        elif whole:
            message, body = self._message, bytes(self._body)
            self._drop_body()
            self._enqueue(message, body)
        elif server.buffered > server.limits.buffered_bytes:
            self._refuse(ThrottlingException("Rate exceeded", detail="too many bytes of unfinished bodies"))

    def _send_continue(self) -> None:
        """Send `100 Continue` unless another answer goes first or the body has arrived unasked."""
        if self._continue_pending and self.task is None and self._message is not None and self._transport is not None:
            self._continue_pending = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _drop_body(self) -> None:
        self._server.buffered -= len(self._body)
        self._body = b""
        self._message = self._payload = None
        self._continue_pending = False

    def _enqueue(self, message: Any, body: bytes) -> None:
        version = "1.1" if message.version[1] else "1.0"
        # Close after a chunked body: aiohttp 3.14 adds its last trailer to the headers of the next request.
        closes = bool(message.should_close or message.chunked or version == "1.0")
        received = RawRequest(message.method, message.path, tuple(message.headers.items()), body)
        self._queue.append(Request(received, self._peer, self._tls, version, self._loop.time(), closes))
        if self.task is None:
            self._enter(Event.REQUEST, NEVER)
            # Count now, not when the task starts: the other requests of this cohort would not be counted yet.
            self._server.cohorts.in_flight += 1
            self.task = self._loop.create_task(self._answer_all())
        elif self._reading and self._transport is not None:
            # A request is already waiting: leave the rest in the client's send buffer.
            self._reading = False
            self._transport.pause_reading()

    def _refuse(self, error: ServiceError) -> None:
        """Answer the current request with `error`, after those before it, and read no more."""
        self._drop_body()
        # The deadline stays: an answer on its way keeps its own.
        self._enter(Event.LAST, None)
        if self.task is None:
            self._finish(error)
        else:
            self._queue.append(error)

    # --- Answering ----------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        """Handle queued requests in order until the queue is empty or the connection must close."""
        server = self._server
        try:
            while self._queue:
                request = self._queue.pop(0)
                if isinstance(request, ServiceError):
                    self._finish(request)
                    return
                self._parser.message_consumed()
                try:
                    answer = await server.handler(request)
                    close = request.closes or ((server.draining or self._eof) and not self._queue)
                    head_only = request.received.method == "HEAD"
                    pieces = rendered_pieces(answer, server.common, close=close, head_only=head_only)
                except Exception as error:  # noqa: BLE001  # the last resort: the client gets an answer, not the cause
                    server.report("a request could not be handled", error, self)
                    close, answer = True, error_answer(KMSInternalException(), new_request_id())
                    pieces = rendered_pieces(answer, server.common, close=True)
                if self._transport is not None:
                    self._transport.writelines(pieces)
                if self._drained is not None:
                    await self._wait_until_read(self._drained)
                if close or self._transport is None:
                    self._close()
                    return
                if not self._queue and not self._reading:
                    self._read_again()
        finally:
            self.task = None
            server.cohorts.in_flight -= 1
            if self._transport is None:
                server.remove(self)
            elif self.state is not State.LINGERING:
                self._rest()

    async def _wait_until_read(self, drained: asyncio.Future[None]) -> None:
        """Wait until the client reads its responses again."""
        self.deadline = self._loop.time() + self._server.limits.answer_seconds
        await drained
        self.deadline = NEVER

    def _read_again(self) -> None:
        """Parse what the parser held back while requests waited; then resume reading the socket."""
        self.data_received(b"")
        if not self._queue and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def _rest(self) -> None:
        """Wait for the rest of a body, for the rest of a head, or for the next request."""
        limits = self._server.limits
        if self._message is not None:
            self._enter(Event.ANSWERED_IN_BODY, limits.body_seconds)
            self._send_continue()
        elif self._head_bytes:
            self._enter(Event.ANSWERED_IN_HEAD, limits.header_seconds)
        else:
            self._enter(Event.ANSWERED, self._server.keep_alive_seconds)

    def _finish(self, error: ServiceError) -> None:
        """Send a refusal and keep reading for a while, so that the client can read it.

        "If a server performs an immediate close of a TCP connection, there is a significant risk that the client will
        not be able to read the last HTTP response" (RFC 9112, section 9.6).
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._server.refusals[error.code] += 1
        self._write_last(error)
        self.deadline = self._loop.time() + self._server.limits.linger_seconds
        if not self._reading:
            self._reading = True
            transport.resume_reading()
        if self._eof or self._server.draining or isinstance(error, RequestTimeoutException):
            # No more input comes, or it comes too slowly to wait for it. A client that still trickles bytes may see a
            # reset connection instead of the answer.
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()

    def _close(self) -> None:
        """Close when all output is sent; abort if the client does not take it."""
        self._enter(Event.LAST, self._server.limits.linger_seconds)
        if self._transport is not None:
            self._transport.close()

    def _write_last(self, error: ServiceError) -> None:
        if self._transport is not None:
            answer = error_answer(error, new_request_id())
            self._transport.writelines(rendered_pieces(answer, self._server.common, close=True))

    def _enter(self, event: Event, seconds: float | None) -> None:
        """Change the state, in which the connection may stay for `seconds`; None: the deadline stays as it is."""
        before, self.state = self.state, TRANSITIONS[self.state][event]
        if seconds is not None:
            self.deadline = self._loop.time() + seconds
        self._server.waiting[before].pop(self, None)
        self._server.waiting[self.state][self] = None
