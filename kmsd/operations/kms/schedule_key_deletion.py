"""ScheduleKeyDeletion: delete a key and its material after a waiting period."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from kmsd.domain.key_state import KeyState, Transition, Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: ScheduleKeyDeletion, Request Parameters."""

    key_id: shapes.KeyId
    pending_window_in_days: shapes.PendingWindowInDays = 30


class Response(shapes.Shape, frozen=True):
    """Reference: ScheduleKeyDeletion, Response Elements."""

    key_id: shapes.KeyId
    deletion_date: shapes.Timestamp
    key_state: str
    pending_window_in_days: int


async def handle(request: Request, call: WriteCall) -> Response:
    """Set the deletion date. The key cannot be used from now on; at the date `kmsd.jobs.deletion` destroys it."""
    days = request.pending_window_in_days
    key = replace(
        call.key.after(Transition.SCHEDULE_DELETION),
        deletion_at=call.now + timedelta(days=days),
        pending_window_days=days,
    )
    await call.transaction.update_key(call.key, key)
    return Response(
        key_id=key.arn,
        deletion_date=(call.now + timedelta(days=days)).timestamp(),
        key_state=KeyState.PENDING_DELETION,
        pending_window_in_days=days,
    )


OPERATION = Operation(
    KMS,
    "ScheduleKeyDeletion",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.NOT_PENDING_DELETION),),
    writes=True,
)
