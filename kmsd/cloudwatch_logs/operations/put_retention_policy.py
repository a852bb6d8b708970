"""PutRetentionPolicy: hide events older than a number of days at once, and remove them soon after."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogGroup
from kmsd.cloudwatch_logs.call import log_group_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import RETENTION_DAYS
from kmsd.errors import InvalidParameterException, OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: PutRetentionPolicyRequest."""

    log_group_name: shapes.LogGroupName
    retention_in_days: int


async def handle(request: Request, call: WriteCall) -> None:
    """Store the retention. Reads obey it at once; the job removes expired events."""
    if request.retention_in_days not in RETENTION_DAYS:
        allowed = ", ".join(str(days) for days in RETENTION_DAYS)
        raise InvalidParameterException(
            f"1 validation error detected: Value '{request.retention_in_days}' at 'retentionInDays' failed to satisfy "
            f"constraint: Member must satisfy enum value set: [{allowed}]"
        )
    group = log_group_of(call)
    await transaction_of(call).update_log_group(group, replace(group, retention_days=request.retention_in_days))


OPERATION = Operation(
    LOGS,
    "PutRetentionPolicy",
    Request,
    None,
    handle,
    access=(OnLogGroup(),),
    raises=(OperationAbortedException,),
    writes=True,
)
