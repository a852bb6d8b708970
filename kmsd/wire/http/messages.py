"""Requests and responses as transport and endpoint exchange them, their checks, and their rendering. No I/O."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from kmsd.errors import MalformedHttpRequestException, RequestEntityTooLargeException, ServiceError
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
    closes: bool = False
    """True if the connection closes after the response."""


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


_MIN_SEPARATE_BODY_BYTES = 65_536


def rendered_pieces(response: Response, common: str, *, close: bool, head_only: bool = False) -> list[bytes]:
    """Return the bytes of a response: the head and a short body in one piece, a long body in its own.

    `common`: the header lines that every response has. `head_only` answers a HEAD request. Raises `ValueError` for a
    header that holds a line break; it never reaches the client.
    """
    lines = ""
    for name, value in response.headers:
        lines += f"{name}: {value}\r\n"
    # "Field values containing CR, LF, or NUL characters are invalid and dangerous" (RFC 9110, section 5.5).
    if lines.count("\n") != len(response.headers) or lines.count("\r") != len(response.headers):
        raise ValueError("an answer's header holds a line break")
    status_line = _STATUS_LINES.get(response.status) or f"HTTP/1.1 {response.status} \r\n"
    closing = "Connection: close\r\n" if close else ""
    body = response.body
    head = f"{status_line}{common}{lines}{closing}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
    # "The HEAD method is identical to GET except that the server MUST NOT send content in the response" (RFC 9110,
    # section 9.3.2).
    if head_only:
        return [head]
    return [head + body] if len(body) < _MIN_SEPARATE_BODY_BYTES else [head, body]


# --- Checks of requests that the parser accepts and this server refuses -------------------------------


def check_head(message: Any, body_bytes: int) -> ServiceError | None:
    """Return the reason to refuse a request for its head, before any of its body is kept; None to accept it."""
    if message.upgrade:
        return MalformedHttpRequestException("Upgrading the connection is not supported.")
    if message.version not in {(1, 1), (1, 0)}:
        return MalformedHttpRequestException("Only HTTP/1.1 and HTTP/1.0 are supported.")
    # "When making a request directly to an origin server … a client MUST send only the absolute path and query
    # components of the target URI as the request-target" (RFC 9112, section 3.2.1).
    if not message.path.startswith("/"):
        return MalformedHttpRequestException("The request's target must be a path.")
    if message.chunked:
        # "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST treat
        # the message as if the framing is faulty" (RFC 9112, section 6.1).
        if message.version[1] == 0 or message.headers["Transfer-Encoding"].lower() != "chunked":
            return MalformedHttpRequestException("The only Transfer-Encoding is chunked, and it needs HTTP/1.1.")
    elif int(message.headers.get("Content-Length", "0")) > body_bytes:
        return too_large(body_bytes)
    return None


def expectation_refusal(expectation: str) -> ServiceError | None:
    """Return the reason to refuse a request for its Expect header; None to accept it."""
    # "The only expectation defined by this specification is "100-continue"" (RFC 9110, section 10.1.1).
    if expectation.lower() == "100-continue":
        return None
    return MalformedHttpRequestException("The request's Expect header asks for what is not offered.")


def head_size(message: Any) -> int:
    """Return the size of a request's header lines in bytes."""
    return sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def head_too_long() -> ServiceError:
    """Return the refusal of a request whose headers are too long together."""
    return MalformedHttpRequestException("The request's headers are too long.")


def too_large(limit: int) -> ServiceError:
    """Return the refusal of a request whose body is longer than `limit` bytes."""
    return RequestEntityTooLargeException(f"The request body is larger than {limit} bytes.")
