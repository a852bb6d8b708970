"""RotateKeyOnDemand: rotate a key now. Automatic rotation keeps its dates."""

from __future__ import annotations

from kmsd.custody import rotation
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material, RotationType
from kmsd.errors import LimitExceededException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation, WriteCall
from kmsd.operations.kms import shapes

MAX_ON_DEMAND = 25


class Request(shapes.Shape, frozen=True):
    """Reference: RotateKeyOnDemand, Request Parameters."""

    key_id: shapes.KeyId


class Response(shapes.Shape, frozen=True):
    """Reference: RotateKeyOnDemand, Response Elements."""

    key_id: shapes.KeyId


async def prepare(_: Request, call: WriteCall) -> Material:
    """Create the new material in the token."""
    _check_count(call)
    return await rotation.create(
        call.dependencies.store, call.token, call.key, call.now, RotationType.ON_DEMAND, created=call.created
    )


def _check_count(call: Call) -> None:
    done = sum(1 for made in call.key.materials.values() if made.rotation_type is RotationType.ON_DEMAND)
    if done >= MAX_ON_DEMAND:
        raise LimitExceededException(f"{call.key.arn} was rotated on demand {MAX_ON_DEMAND} times, which is the limit.")


async def handle(_: Request, call: WriteCall) -> Response:
    """Make the material that `prepare` created the current one."""
    _check_count(call)
    await rotation.make_current(call.transaction, call.key, call.prepared)
    return Response(key_id=call.key.arn)


OPERATION = Operation(
    KMS,
    "RotateKeyOnDemand",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ROTATION),),
    raises=(
        LimitExceededException,
        UnsupportedOperationException,
    ),
    writes=True,
    prepare=prepare,
)
