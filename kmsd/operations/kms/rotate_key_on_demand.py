"""RotateKeyOnDemand: rotate a key now, to new material, or to imported material that is pending rotation.

Automatic rotation keeps its dates.
"""

from __future__ import annotations

from kmsd.custody import imported_material, rotation
from kmsd.domain.key import Origin
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material, RotationType
from kmsd.errors import KMSInvalidStateException, LimitExceededException, UnsupportedOperationException
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


async def prepare(_: Request, call: WriteCall) -> Material | None:
    """Create the new material in the token, unless the key's material is imported."""
    await _check_count(call)
    if call.key.origin is Origin.EXTERNAL:
        return None
    return await rotation.create(
        call.dependencies.store, call.tokens, call.key, call.now, RotationType.ON_DEMAND, created=call.created
    )


async def _check_count(call: Call) -> None:
    """Check the limit of rotations, those to imported material that is now deleted included.

    Raises LimitExceededException.
    """
    imported = await call.reader.imported_materials(call.key.key_id) if call.key.origin is Origin.EXTERNAL else ()
    done = sum(1 for made in call.key.materials.values() if made.rotation_type is RotationType.ON_DEMAND)
    done += sum(1 for one in imported if one.rotated_at is not None)
    if done >= MAX_ON_DEMAND:
        raise LimitExceededException(f"{call.key.arn} was rotated on demand {MAX_ON_DEMAND} times, which is the limit.")


async def handle(_: Request, call: WriteCall) -> Response:
    """Make the material that `prepare` created, or the imported material that is pending, the current one."""
    await _check_count(call)
    if call.prepared is None:
        await imported_material.rotate(call.transaction, call.key, call.now)
    else:
        await rotation.make_current(call.transaction, call.key, call.prepared)
    return Response(key_id=call.key.arn)


OPERATION = Operation(
    KMS,
    "RotateKeyOnDemand",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ENABLED, is_symmetric=True),),
    raises=(
        KMSInvalidStateException,
        LimitExceededException,
        UnsupportedOperationException,
    ),
    writes=True,
    prepare=prepare,
)
