"""UpdateKeyDescription: replace a key's description."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.domain.key_state import Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: UpdateKeyDescription, Request Parameters."""

    key_id: shapes.KeyId
    description: shapes.Description


async def handle(request: Request, call: WriteCall) -> None:
    """Replace the description."""
    await call.transaction.update_key(call.key, replace(call.key, description=request.description))


OPERATION = Operation(
    KMS,
    "UpdateKeyDescription",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.NOT_PENDING_DELETION),),
    writes=True,
)
