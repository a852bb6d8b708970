"""What CreateLogGroup, AssociateKmsKey and DisassociateKmsKey share: which key, and whether it would do."""

from __future__ import annotations

from kmsd.cloudwatch_logs.call import reader_of, service_of
from kmsd.cloudwatch_logs.data_keys import KeyAssociation
from kmsd.domain.arn import parse_key_name
from kmsd.domain.key_state import KeyState
from kmsd.errors import ABORTED, OperationAbortedException
from kmsd.operations.declaration import Call


async def examined(call: Call, owner: bytes, arn: str, kms_key: str) -> str:
    """The key's ARN, once it has been proven that the service can use it for `arn`.

    Raises InvalidParameterException for a key that is unknown or not enabled, AccessDeniedException.
    """
    subject = KeyAssociation(owner, call.caller.account, arn, kms_key)
    return (await service_of(call).keys.validate_association(reader_of(call), subject, call.now)).arn


async def check_still(call: Call, kms_key: str) -> None:
    """That the key has not changed its state since it was examined. Raises OperationAbortedException."""
    name = parse_key_name(kms_key, caller_account="", arns=call.dependencies.arns, aliases=False)
    key = await reader_of(call).key(name.key_id)
    if key is None or not key.exists_at(call.now) or key.state_at(call.now) is not KeyState.ENABLED:
        raise OperationAbortedException(ABORTED, detail="the key was changed meanwhile")
