"""AssociateKmsKey: encrypt a group's new events, or all new query results of the account, under a customer's key."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.cloudwatch_logs import key_association, shapes
from kmsd.cloudwatch_logs.access import OnLogsKey
from kmsd.cloudwatch_logs.call import group_in, log_group_of, reader_of, transaction_of
from kmsd.cloudwatch_logs.declaration import LOGS
from kmsd.cloudwatch_logs.groups import LogGroup, ResultsKey
from kmsd.errors import ABORTED, AccessDeniedException, OperationAbortedException
from kmsd.operations.declaration import Operation, WriteCall


class Request(shapes.LogShape, frozen=True):
    """botocore: AssociateKmsKeyRequest."""

    kms_key_id: shapes.KmsKeyId
    log_group_name: shapes.LogGroupName | None = None
    resource_identifier: shapes.ResourceIdentifier | None = None


async def prepare(request: Request, call: WriteCall) -> tuple[str, LogGroup | ResultsKey]:
    """Verify the key; return its ARN, and the target as it was stored at that time."""
    target = call.targets[0]
    group = group_in(target)
    if group is None:
        account = call.caller.account
        kms_key = await key_association.examined(call, account.encode(), target.arn, request.kms_key_id)
        return kms_key, await reader_of(call).results_key(account)
    return await key_association.examined(call, group.group_id, group.arn, request.kms_key_id), group


async def handle(_: Request, call: WriteCall) -> None:
    """Replace the association. Existing data stays encrypted as it is."""
    kms_key, examined = call.prepared
    await key_association.check_still(call, kms_key)
    if isinstance(examined, ResultsKey):
        await transaction_of(call).insert_account(call.caller.account, call.now)
        await transaction_of(call).put_results_key(examined, kms_key)
        return
    if log_group_of(call).group_id != examined.group_id:
        raise OperationAbortedException(ABORTED, detail="the group was recreated meanwhile")
    # Compare and swap: "Multiple concurrent requests to update the same resource were in conflict."
    await transaction_of(call).update_log_group(examined, replace(log_group_of(call), kms_key=kms_key))


OPERATION = Operation(
    LOGS,
    "AssociateKmsKey",
    Request,
    None,
    handle,
    access=(OnLogsKey("resource_identifier"),),
    raises=(AccessDeniedException, OperationAbortedException),
    writes=True,
    prepare=prepare,
)
