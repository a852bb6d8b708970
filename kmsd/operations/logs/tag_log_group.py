"""TagLogGroup: the older form of TagResource."""

from __future__ import annotations

from kmsd.domain import log_shapes as shapes
from kmsd.errors import TooManyTagsException
from kmsd.operations import logs_tags
from kmsd.operations.model import Call, OnLogGroup, Operation, Service


class Request(shapes.LogShape, frozen=True):
    """botocore: TagLogGroupRequest."""

    log_group_name: shapes.LogGroupName
    tags: shapes.Tags


async def handle(request: Request, call: Call) -> None:
    """Write them down."""
    await logs_tags.put(call, request.tags)


OPERATION = Operation(
    Service.LOGS,
    "TagLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(TooManyTagsException,),
    writes=True,
)
