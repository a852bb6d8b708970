"""Requests and responses as transport and endpoint exchange them, and rendering of responses. No I/O."""

from __future__ import annotations

import os

import msgspec

from kmsd.errors import ServiceError
from kmsd.wire.sigv4.claim import RawRequest

JSON = "application/x-amz-json-1.1"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_STATUS_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, reason in _REASONS.items()}


class Tls(msgspec.Struct, frozen=True):
    """TLS version and cipher of a connection."""

    version: str
    """`TLSv1.3`."""
    cipher: str
    """OpenSSL's name, `TLS_AES_256_GCM_SHA384`."""


class Request(msgspec.Struct, frozen=True):
    """A complete request, and the connection it came on."""

    received: RawRequest
    peer: str
    """The client's IP address; empty on a Unix socket."""
    tls: Tls | None
    http_version: str
    """`1.1` or `1.0`."""
    arrived: float
    """The event loop's clock at the last byte of the body; for durations."""


class Response(msgspec.Struct, frozen=True):
    """A response. The transport adds Content-Length, Date, Server and Connection."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Latin-1, without line breaks."""
    body: bytes


_random: list[str] = []
"""Unused random numbers of 16 bytes, in hexadecimal. One system call for each id would cost more."""
_POOL_SIZE = 256
os.register_at_fork(after_in_child=_random.clear)


def new_request_id() -> str:
    """Return a random (version 4) UUID, at a fifth of the cost of `uuid.uuid4`."""
    if not _random:
        drawn = os.urandom(16 * _POOL_SIZE).hex()
        _random.extend(drawn[at : at + 32] for at in range(0, len(drawn), 32))
    text = _random.pop()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def error_answer(error: ServiceError, request_id: str) -> Response:
    """Render an error as AWS's JSON services do: bare class name, JSON, request id."""
    body = {"__type": error.code, "message": error.message} if error.message else {"__type": error.code}
    return Response(
        error.status,
        (("Content-Type", JSON), ("x-amzn-RequestId", request_id)),
        # A message may quote the client; characters that UTF-8 cannot encode must not break the answer.
        msgspec.json.encode({name: text.encode("utf-8", "replace").decode() for name, text in body.items()}),
    )


def rendered(response: Response, common: str, *, close: bool, head_only: bool = False) -> bytes:
    """Return the bytes of a response; `head_only` answers a HEAD request. `common` and errors: see `rendered_head`."""
    # "The HEAD method is identical to GET except that the server MUST NOT send content in the response" (RFC 9110,
    # section 9.3.2).
    head = rendered_head(response, common, close=close)
    return head if head_only else head + response.body


def rendered_pieces(response: Response, common: str, *, close: bool, head_only: bool) -> list[bytes]:
    """Return the pieces of `rendered`, without copying a long body only to join it to its head."""
    if head_only or len(response.body) < _MIN_SEPARATE_BODY_BYTES:
        return [rendered(response, common, close=close, head_only=head_only)]
    return [rendered_head(response, common, close=close), response.body]


_MIN_SEPARATE_BODY_BYTES = 65_536


def rendered_head(response: Response, common: str, *, close: bool) -> bytes:
    """Return the status line and headers of a response. `common`: the header lines that every response has.

    Raises `ValueError` for a header that holds a line break; it never reaches the client.
    """
    # "Field values containing CR, LF, or NUL characters are invalid and dangerous" (RFC 9110, section 5.5).
    lines = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
    if lines.count("\n") != len(response.headers) or lines.count("\r") != len(response.headers):
        raise ValueError("an answer's header holds a line break")
    status_line = _STATUS_LINES.get(response.status) or f"HTTP/1.1 {response.status} \r\n"
    closing = "Connection: close\r\n" if close else ""
    return f"{status_line}{common}{lines}{closing}Content-Length: {len(response.body)}\r\n\r\n".encode("latin-1")
