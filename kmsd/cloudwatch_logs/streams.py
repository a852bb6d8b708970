"""Streams that requests name."""

from __future__ import annotations

from kmsd.cloudwatch_logs.groups import NO_STREAM, LogStream
from kmsd.errors import ResourceNotFoundException
from kmsd.operations.declaration import Call


async def existing(call: Call, name: str) -> LogStream:
    """The stream of this name in the call's group. Raises ResourceNotFoundException."""
    stream = await call.books.log_stream(call.log_group.group_id, name)
    if stream is None:
        raise ResourceNotFoundException(NO_STREAM)
    return stream
