"""DeleteLogGroup: delete a group, its streams, and all its events."""

from __future__ import annotations

from contextlib import suppress

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, service_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.errors import OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: DeleteLogGroupRequest."""

    log_group_name: shapes.LogGroupName


async def handle(_: Request, call: WriteCall) -> None:
    """Delete the group, which is invisible from the commit on, and then remove its segments."""
    group = log_group_of(call)
    await transaction_of(call).delete_log_group(group, call.now)

    async def remove() -> None:
        # The group is deleted already: `kmsd.cloudwatch_logs.jobs.retention` removes the rest if this fails.
        with suppress(SegmentsError):
            await service_of(call).segments.delete_group(group.group_id)

    call.after_commit.append(remove)


OPERATION = Operation(
    LOGS,
    "DeleteLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(OperationAbortedException,),
    writes=True,
)
