"""TagResource: add tags to a log group."""

from __future__ import annotations

from kmsd.domain import log_shapes as shapes
from kmsd.errors import TooManyTagsException
from kmsd.operations import logs_tags
from kmsd.operations.model import Call, OnLogGroup, Operation, Service


class Request(shapes.LogShape, frozen=True):
    """botocore: TagResourceRequest."""

    resource_arn: shapes.ResourceArn
    tags: shapes.Tags


async def handle(request: Request, call: Call) -> None:
    """Write them down."""
    await logs_tags.put(call, request.tags)


OPERATION = Operation(
    Service.LOGS,
    "TagResource",
    Request,
    None,
    handle,
    access=(OnLogGroup(member="resource_arn", tagging=True),),
    raises=(TooManyTagsException,),
    writes=True,
)
