"""UntagLogGroup: older form of UntagResource."""

from __future__ import annotations

import msgspec

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: UntagLogGroupRequest."""

    log_group_name: shapes.LogGroupName
    tag_keys: shapes.TagList = msgspec.field(name="tags")


async def handle(request: Request, call: WriteCall) -> None:
    """Remove tags. Absent ones are no error."""
    await transaction_of(call).delete_log_group_tags(log_group_of(call).group_id, request.tag_keys)


OPERATION = Operation(
    LOGS,
    "UntagLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    writes=True,
)
