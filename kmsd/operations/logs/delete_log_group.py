"""DeleteLogGroup: the group, its streams, and all its events."""

from __future__ import annotations

from functools import partial

from kmsd.domain import log_shapes as shapes
from kmsd.errors import OperationAbortedException
from kmsd.operations.model import Call, OnLogGroup, Operation, Service


class Request(shapes.LogShape, frozen=True):
    """botocore: DeleteLogGroupRequest."""

    log_group_name: shapes.LogGroupName


async def handle(_: Request, call: Call) -> None:
    """Nobody finds it from the commit on; then its segments go. What is interrupted there the job finishes."""
    group = call.log_group
    await call.transaction.delete_log_group(group, call.now)
    call.after_commit.append(partial(call.logs.segments.delete_group, group.group_id))


OPERATION = Operation(
    Service.LOGS,
    "DeleteLogGroup",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(OperationAbortedException,),
    writes=True,
)
