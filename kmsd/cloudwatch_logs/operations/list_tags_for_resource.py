"""ListTagsForResource: return the tags of a log group."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.operations.declaration import Call, Operation


class Request(shapes.LogShape, frozen=True):
    """botocore: ListTagsForResourceRequest."""

    resource_arn: shapes.ResourceArn


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: ListTagsForResourceResponse."""

    tags: dict[str, str]


async def handle(_: Request, call: Call) -> Response:
    """Return all tags."""
    return Response(dict(await reader_of(call).log_group_tags(log_group_of(call).group_id)))


OPERATION = Operation(
    LOGS,
    "ListTagsForResource",
    Request,
    Response,
    handle,
    access=(OnLogGroup(member="resource_arn", tagging=True),),
)
