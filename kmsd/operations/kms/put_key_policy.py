"""PutKeyPolicy: replace the key policy."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.domain.key_state import Usable
from kmsd.errors import LimitExceededException, MalformedPolicyDocumentException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes
from kmsd.operations.kms.new_key_policy import check_new_policy, check_policy_name


class Request(shapes.Shape, frozen=True):
    """Reference: PutKeyPolicy, Request Parameters."""

    key_id: shapes.KeyId
    policy: shapes.Policy
    policy_name: shapes.PolicyName = "default"
    bypass_policy_lockout_safety_check: bool = False


async def handle(request: Request, call: WriteCall) -> None:
    """Replace the policy. The new one is effective in every process when the response is sent."""
    check_policy_name(request.policy_name)
    key = call.key
    await check_new_policy(OPERATION, request.policy, request, call, call.targets[0])
    await call.transaction.update_key(key, replace(key, policy=request.policy))


OPERATION = Operation(
    KMS,
    "PutKeyPolicy",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
    raises=(
        LimitExceededException,
        MalformedPolicyDocumentException,
    ),
    writes=True,
)
