"""DisableKeyRotation: turn automatic rotation off. Existing materials stay."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.domain.key_state import Usable
from kmsd.errors import UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: DisableKeyRotation, Request Parameters."""

    key_id: shapes.KeyId


async def handle(_: Request, call: WriteCall) -> None:
    """Clear the rotation period and the next rotation."""
    key = replace(call.key, rotation_period_days=None, next_rotation_at=None)
    await call.transaction.update_key(call.key, key)


OPERATION = Operation(
    KMS,
    "DisableKeyRotation",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.ROTATION, is_symmetric=True),),
    raises=(UnsupportedOperationException,),
    writes=True,
)
