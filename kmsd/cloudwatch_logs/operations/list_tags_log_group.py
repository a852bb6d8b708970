"""ListTagsLogGroup: older form of ListTagsForResource."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, reader_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.operations.declaration import Call, Operation


class Request(shapes.LogShape, frozen=True):
    """botocore: ListTagsLogGroupRequest."""

    log_group_name: shapes.LogGroupName


class Response(shapes.LogShape, frozen=True, omit_defaults=False):
    """botocore: ListTagsLogGroupResponse."""

    tags: dict[str, str]


async def handle(_: Request, call: Call) -> Response:
    """Return all tags."""
    return Response(dict(await reader_of(call).log_group_tags(log_group_of(call).group_id)))


OPERATION = Operation(
    LOGS,
    "ListTagsLogGroup",
    Request,
    Response,
    handle,
    access=(OnLogGroup(),),
)
