"""CreateLogStream: a new stream of a group."""

from __future__ import annotations

import secrets

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.groups import LogStream
from kmsd.errors import ResourceAlreadyExistsException
from kmsd.operations.declaration import Call, OnLogGroup, Operation, Service


class Request(shapes.LogShape, frozen=True):
    """botocore: CreateLogStreamRequest."""

    log_group_name: shapes.LogGroupName
    log_stream_name: shapes.LogStreamName


async def handle(request: Request, call: Call) -> None:
    """Write it down."""
    group = call.log_group
    if await call.books.log_stream(group.group_id, request.log_stream_name) is not None:
        raise ResourceAlreadyExistsException("The specified log stream already exists")
    stream = LogStream(secrets.token_bytes(16), group.group_id, request.log_stream_name, call.now)
    await call.transaction.insert_log_stream(stream)


OPERATION = Operation(
    Service.LOGS,
    "CreateLogStream",
    Request,
    None,
    handle,
    access=(OnLogGroup(stream="log_stream_name"),),
    raises=(ResourceAlreadyExistsException,),
    writes=True,
)
