"""ListKeyPolicies: list the names of a key's policies. There is only one."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.errors import InvalidMarkerException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.new_key_policy import DEFAULT_NAME


class Request(shapes.Shape, frozen=True):
    """Reference: ListKeyPolicies, Request Parameters."""

    key_id: shapes.KeyId
    limit: shapes.Limit = 100
    marker: shapes.Marker | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListKeyPolicies, Response Elements."""

    policy_names: list[shapes.PolicyName]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, _: Call) -> Response:
    """Return the only page."""
    if request.marker is not None:
        raise InvalidMarkerException("The marker is not valid for this request.")
    return Response(policy_names=[DEFAULT_NAME], truncated=False)


OPERATION = Operation(
    KMS,
    "ListKeyPolicies",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY, aliases=True),),
    raises=(InvalidMarkerException,),
)
