"""CreateLogStream: create a stream in a group."""

from __future__ import annotations

import secrets

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import LogStream
from kmsd.errors import ResourceAlreadyExistsException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: CreateLogStreamRequest."""

    log_group_name: shapes.LogGroupName
    log_stream_name: shapes.LogStreamName


async def handle(request: Request, call: WriteCall) -> None:
    """Store the stream."""
    group = log_group_of(call)
    if await reader_of(call).log_stream(group.group_id, request.log_stream_name) is not None:
        raise ResourceAlreadyExistsException("The specified log stream already exists")
    stream = LogStream(secrets.token_bytes(16), group.group_id, request.log_stream_name, call.now)
    await transaction_of(call).insert_log_stream(stream)


OPERATION = Operation(
    LOGS,
    "CreateLogStream",
    Request,
    None,
    handle,
    access=(OnLogGroup(stream="log_stream_name"),),
    raises=(ResourceAlreadyExistsException,),
    writes=True,
)
