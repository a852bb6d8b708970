"""GetKeyRotationStatus: return if automatic rotation is on, its period and its next date."""

from __future__ import annotations

from kmsd.domain.key_state import KeyState, Usable
from kmsd.errors import UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: GetKeyRotationStatus, Request Parameters."""

    key_id: shapes.KeyId


class Response(shapes.Shape, frozen=True):
    """Reference: GetKeyRotationStatus, Response Elements."""

    key_rotation_enabled: bool
    key_id: shapes.KeyId
    rotation_period_in_days: int | None = None
    next_rotation_date: shapes.Timestamp | None = None


async def handle(_: Request, call: Call) -> Response:
    """Return the rotation status at the time of the call."""
    key = call.key
    # A key pending deletion is not rotated and shows rotation as off. Cancelling the deletion restores the status.
    if key.rotation_period_days is None or key.state is KeyState.PENDING_DELETION:
        return Response(key_rotation_enabled=False, key_id=key.arn)
    return Response(
        key_rotation_enabled=True,
        key_id=key.arn,
        rotation_period_in_days=key.rotation_period_days,
        next_rotation_date=None if key.next_rotation_at is None else key.next_rotation_at.timestamp(),
    )


OPERATION = Operation(
    KMS,
    "GetKeyRotationStatus",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ROTATION_STATUS, is_symmetric=True),),
    raises=(UnsupportedOperationException,),
)
