"""UntagLogGroup: the older form of UntagResource."""

from __future__ import annotations

import msgspec

from kmsd.cloudwatch_logs import shapes
from kmsd.operations.declaration import Call, OnLogGroup, Operation, Service


class Request(shapes.LogShape, frozen=True):
    """botocore: UntagLogGroupRequest."""

    log_group_name: shapes.LogGroupName
    tag_keys: shapes.TagList = msgspec.field(name="tags")


async def handle(request: Request, call: Call) -> None:
    """Absent tags are no error."""
    await call.transaction.delete_log_group_tags(call.log_group.group_id, request.tag_keys)


OPERATION = Operation(
    Service.LOGS,
    "UntagLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    writes=True,
)
