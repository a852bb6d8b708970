"""RevokeGrant: delete a grant, by an administrator of the key."""

from __future__ import annotations

from kmsd.domain.grant import check_grant_id
from kmsd.domain.key_state import Usable
from kmsd.errors import InvalidGrantIdException, NotFoundException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: RevokeGrant, Request Parameters."""

    key_id: shapes.KeyId
    grant_id: shapes.GrantId
    dry_run: bool | None = None


async def handle(request: Request, call: WriteCall) -> None:
    """Delete the grant. No process uses it after the response."""
    check_grant_id(request.grant_id)
    grant = await call.reader.grant(request.grant_id)
    if grant is None or grant.key_id != call.key.key_id:
        raise NotFoundException(f"Grant ID {request.grant_id} not found")
    await call.transaction.delete_grant(grant.grant_id)


OPERATION = Operation(
    KMS,
    "RevokeGrant",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
    raises=(InvalidGrantIdException,),
    writes=True,
)
