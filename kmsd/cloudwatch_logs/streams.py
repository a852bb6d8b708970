"""Lookup of log streams named in requests."""

from __future__ import annotations

from kmsd.cloudwatch_logs.call import log_group_of, reader_of
from kmsd.cloudwatch_logs.groups import NO_STREAM, LogStream
from kmsd.errors import ResourceNotFoundException
from kmsd.operations.declaration import Call


async def require_stream(call: Call, name: str) -> LogStream:
    """Return the stream of this name in the call's group. Raises ResourceNotFoundException."""
    stream = await reader_of(call).log_stream(log_group_of(call).group_id, name)
    if stream is None:
        raise ResourceNotFoundException(NO_STREAM)
    return stream
