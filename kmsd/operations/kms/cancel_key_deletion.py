"""CancelKeyDeletion: keep the key. It is then disabled, or pending import if it has no material."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.domain.key_state import Transition, Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: CancelKeyDeletion, Request Parameters."""

    key_id: shapes.KeyId


class Response(shapes.Shape, frozen=True):
    """Reference: CancelKeyDeletion, Response Elements."""

    key_id: shapes.KeyId


async def handle(_: Request, call: WriteCall) -> Response:
    """Clear the deletion date."""
    # The job performs a rotation that became due in the meantime once the key is enabled again.
    has_material = call.key.material_at(call.now) is not None
    event = Transition.CANCEL_DELETION if has_material else Transition.CANCEL_DELETION_WITHOUT_MATERIAL
    key = replace(call.key.after(event), deletion_at=None, pending_window_days=None)
    await call.transaction.update_key(call.key, key)
    return Response(key_id=key.arn)


OPERATION = Operation(
    KMS,
    "CancelKeyDeletion",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.PENDING_DELETION),),
    writes=True,
)
