"""EnableKeyRotation: give a key new material each period. Old materials still decrypt old blobs."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from kmsd.domain.key import DEFAULT_ROTATION_DAYS
from kmsd.domain.key_state import Usable
from kmsd.errors import UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: EnableKeyRotation, Request Parameters."""

    key_id: shapes.KeyId
    rotation_period_in_days: shapes.RotationPeriodInDays | None = None


async def handle(request: Request, call: WriteCall) -> None:
    """Set the period, which begins now. The same period as before changes nothing."""
    # Without a period in the request, a key keeps the one that it has.
    days = request.rotation_period_in_days or call.key.rotation_period_days or DEFAULT_ROTATION_DAYS
    if days == call.key.rotation_period_days:
        return
    key = replace(call.key, rotation_period_days=days, next_rotation_at=call.now + timedelta(days=days))
    await call.transaction.update_key(call.key, key)


OPERATION = Operation(
    KMS,
    "EnableKeyRotation",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.ROTATION, is_symmetric=True),),
    raises=(UnsupportedOperationException,),
    writes=True,
)
