"""DeleteLogStream: delete a stream and its events."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.streams import require_stream
from kmsd.errors import OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: DeleteLogStreamRequest."""

    log_group_name: shapes.LogGroupName
    log_stream_name: shapes.LogStreamName


async def handle(request: Request, call: WriteCall) -> None:
    """Delete the stream. Its events are invisible from the commit on; the job rewrites the segments without them."""
    stream = await require_stream(call, request.log_stream_name)
    await transaction_of(call).delete_log_stream(stream)


OPERATION = Operation(
    LOGS,
    "DeleteLogStream",
    Request,
    None,
    handle,
    access=(OnLogGroup(stream="log_stream_name"),),
    raises=(OperationAbortedException,),
    writes=True,
)
