"""DisassociateKmsKey: encrypt new data under the daemon's own key; existing data stays under the customer's key."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.cloudwatch_logs import shapes
from kmsd.cloudwatch_logs.access import OnLogsKey
from kmsd.cloudwatch_logs.call import group_in, reader_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.errors import OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: DisassociateKmsKeyRequest."""

    log_group_name: shapes.LogGroupName | None = None
    resource_identifier: shapes.ResourceIdentifier | None = None


async def handle(_: Request, call: WriteCall) -> None:
    """Remove the association. Without one, nothing changes, and that is no error."""
    group = group_in(call.targets[0])
    if group is not None:
        await transaction_of(call).update_log_group(group, replace(group, kms_key=None))
        return
    known = await reader_of(call).results_key(call.caller.account)
    if known.kms_key is not None:
        await transaction_of(call).put_results_key(known, None)


OPERATION = Operation(
    LOGS,
    "DisassociateKmsKey",
    Request,
    None,
    handle,
    access=(OnLogsKey("resource_identifier"),),
    raises=(OperationAbortedException,),
    writes=True,
)
