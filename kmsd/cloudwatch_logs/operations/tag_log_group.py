"""TagLogGroup: older form of TagResource."""

from __future__ import annotations

from kmsd.cloudwatch_logs import group_tags, shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.errors import TooManyTagsException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: TagLogGroupRequest."""

    log_group_name: shapes.LogGroupName
    tags: shapes.Tags


async def handle(request: Request, call: WriteCall) -> None:
    """Store the tags."""
    await group_tags.put(call, request.tags)


OPERATION = Operation(
    LOGS,
    "TagLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(TooManyTagsException,),
    writes=True,
)
