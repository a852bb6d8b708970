"""UntagResource: remove tags from a log group."""

from __future__ import annotations

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: UntagResourceRequest."""

    resource_arn: shapes.ResourceArn
    tag_keys: shapes.TagKeys


async def handle(request: Request, call: WriteCall) -> None:
    """Remove tags. Absent ones are no error."""
    await transaction_of(call).delete_log_group_tags(log_group_of(call).group_id, request.tag_keys)


OPERATION = Operation(
    LOGS,
    "UntagResource",
    Request,
    None,
    handle,
    access=(OnLogGroup(member="resource_arn", tagging=True),),
    writes=True,
)
