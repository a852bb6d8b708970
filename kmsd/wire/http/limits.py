"""Limits of the HTTP server."""

from __future__ import annotations

import msgspec


class TransportLimits(msgspec.Struct, frozen=True):
    """Limits for one client, and for all clients together."""

    header_seconds: float = 10.0
    """From the connection, or the first byte of a later request, to the end of its headers; also for TLS handshakes."""
    body_seconds: float = 10.0
    """From the end of the headers to the end of the body, however steadily bytes arrive."""
    answer_seconds: float = 10.0
    """A client that leaves its answers unread for this long is disconnected."""
    keep_alive_seconds: float = 75.0
    """Maximum idle time between two requests."""
    linger_seconds: float = 2.0
    """A refused client's input is read and dropped for this long, so that it can read the refusal."""
    request_line_bytes: int = 8_190
    """Maximum length of the target; presigned requests with session tokens are the longest."""
    header_line_bytes: int = 8_190
    """Maximum length of one header, name and value."""
    header_lines: int = 64
    """Maximum number of headers of one request."""
    header_bytes: int = 32_768
    """Maximum length of all headers of one request together."""
    body_bytes: int = 2_097_152
    """Maximum body of one request. PutLogEvents takes 1 MiB of messages, which JSON wraps and escapes."""
    buffered_bytes: int = 67_108_864
    """Maximum of unfinished bodies on all connections together; their senders are not authenticated yet."""
    connections: int = 10_000
    """Maximum open at once, TLS handshakes included. When more come, idle ones are closed, then unfinished ones."""
