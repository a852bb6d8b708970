"""DeleteRetentionPolicy: keep a group's events forever."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.errors import OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: DeleteRetentionPolicyRequest."""

    log_group_name: shapes.LogGroupName


async def handle(_: Request, call: WriteCall) -> None:
    """Store the change."""
    group = log_group_of(call)
    await transaction_of(call).update_log_group(group, replace(group, retention_days=None))


OPERATION = Operation(
    LOGS,
    "DeleteRetentionPolicy",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(OperationAbortedException,),
    writes=True,
)
