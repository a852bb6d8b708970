"""Checks of requests that the HTTP parser accepts and this server refuses. No I/O."""

from __future__ import annotations

from typing import Any

from kmsd.errors import MalformedHttpRequestException, RequestEntityTooLargeException, ServiceError


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
