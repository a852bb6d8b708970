"""Key checks shared by CreateLogGroup, AssociateKmsKey and DisassociateKmsKey."""

from __future__ import annotations

from kmsd.cloudwatch_logs.call import reader_of, service_of
from kmsd.cloudwatch_logs.service_key_access import KeyAssociation
from kmsd.domain.arn import parse_key_name
from kmsd.domain.key_state import Usable
from kmsd.errors import ABORTED, OperationAbortedException
from kmsd.operations.declaration import Call


async def examined(call: Call, owner: bytes, arn: str, kms_key: str) -> str:
    """Verify that the service can use the key for `arn`, and return the key's ARN.

    Raises InvalidParameterException for a key that is unknown or not enabled, and AccessDeniedException.
    """
    subject = KeyAssociation(owner, call.caller.account, arn, kms_key)
    return (await service_of(call).keys.validate_association(reader_of(call), subject, call.now)).arn


async def check_still(call: Call, kms_key: str) -> None:
    """Check that the key is still enabled after `examined`. Raises OperationAbortedException."""
    name = parse_key_name(kms_key, caller_account="", arns=call.dependencies.arns, aliases=False)
    key = await reader_of(call).key(name.key_id)
    if key is None or not key.exists_at(call.now) or not Usable.ENABLED.allows(key.state_at(call.now)):
        raise OperationAbortedException(ABORTED, detail="the key was changed meanwhile")
