"""GetCallerIdentity: return the principal of the credentials."""

from __future__ import annotations

from kmsd.operations.access import Unrestricted
from kmsd.operations.declaration import STS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """STS API Reference: GetCallerIdentity; it has no parameters."""


class Response(shapes.Shape, frozen=True):
    """STS API Reference: GetCallerIdentity."""

    user_id: str
    account: str
    arn: str


async def handle(_: Request, call: Call) -> Response:
    """Return the caller that the signature authenticated."""
    return Response(user_id=call.caller.principal_id, account=call.caller.account, arn=call.caller.arn)


OPERATION = Operation(
    STS,
    "GetCallerIdentity",
    Request,
    Response,
    handle,
    access=(Unrestricted('"No permissions are required to perform this operation" (STS API Reference)'),),
)
