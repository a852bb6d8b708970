"""GetKeyPolicy: return the key policy, as it was stored."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.new_key_policy import DEFAULT_NAME, check_policy_name


class Request(shapes.Shape, frozen=True):
    """Reference: GetKeyPolicy, Request Parameters."""

    key_id: shapes.KeyId
    policy_name: shapes.PolicyName = "default"


class Response(shapes.Shape, frozen=True):
    """Reference: GetKeyPolicy, Response Elements."""

    policy: shapes.Policy
    policy_name: shapes.PolicyName


async def handle(request: Request, call: Call) -> Response:
    """Return the only policy of a key. Its name is `default`."""
    check_policy_name(request.policy_name)
    return Response(policy=call.key.policy, policy_name=DEFAULT_NAME)


OPERATION = Operation(
    KMS,
    "GetKeyPolicy",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
)
