"""What the HTTP server lets a client take."""

from __future__ import annotations

import msgspec


class TransportLimits(msgspec.Struct, frozen=True):
    """What one client may take of the server, and all of them together."""

    header_seconds: float = 10.0
    """From the connection, or the first byte of a later request, to the end of its headers; also for TLS handshakes."""
    body_seconds: float = 10.0
    """From the end of the headers to the end of the body, however steadily it drips."""
    answer_seconds: float = 10.0
    """How long a client may leave answers unread before it is cut off."""
    keep_alive_seconds: float = 75.0
    """How long a connection may rest between two requests."""
    linger_seconds: float = 2.0
    """How long a refused client's input is still read and dropped, so that it can read why."""
    request_line_bytes: int = 8_190
    """Of the target; presigned requests with session tokens are the longest."""
    header_line_bytes: int = 8_190
    """Of one header, name and value."""
    header_lines: int = 64
    """Headers of one request."""
    header_bytes: int = 32_768
    """All headers of one request together."""
    body_bytes: int = 2_097_152
    """Of one request. PutLogEvents takes 1 MiB of messages, which JSON wraps and escapes."""
    buffered_bytes: int = 67_108_864
    """Of unfinished bodies on all connections together; nobody has been authenticated for these."""
    connections: int = 10_000
    """Open at once, TLS handshakes included; when more come, resting ones are closed, then unfinished ones."""
