"""What the HTTP parser lets pass and this server does not take; pure."""

from __future__ import annotations

from typing import Any

from kmsd.errors import MalformedHttpRequestException, RequestEntityTooLargeException, ServiceError


def check_head(message: Any, body_bytes: int) -> ServiceError | None:
    """Why a request is refused for its head alone, before any of its body is kept; None: it is not."""
    if message.upgrade:
        return MalformedHttpRequestException("Upgrading the connection is not supported.")
    if message.version not in {(1, 1), (1, 0)}:
        return MalformedHttpRequestException("Only HTTP/1.1 and HTTP/1.0 are supported.")
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


def expectation_refusal(expectation: str | None) -> ServiceError | None:
    """Why a request is refused for its Expect header: `100-continue` is all that can be expected."""
    if expectation is None or expectation.lower() == "100-continue":
        return None
    return MalformedHttpRequestException("The request's Expect header asks for what is not offered.")


def head_size(message: Any) -> int:
    """Bytes of a request's header lines."""
    return sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def head_too_long() -> ServiceError:
    """The refusal of a request whose headers are too many bytes together."""
    return MalformedHttpRequestException("The request's headers are too long.")


def too_large(limit: int) -> ServiceError:
    """The refusal of a request whose body is longer than `limit`."""
    return RequestEntityTooLargeException(f"The request body is larger than {limit} bytes.")
