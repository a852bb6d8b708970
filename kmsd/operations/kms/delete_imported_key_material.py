"""DeleteImportedKeyMaterial: destroy a material in the token. The same material can be imported again."""

from __future__ import annotations

from functools import partial

from kmsd.custody import imported_material, token_objects
from kmsd.domain.key_state import Usable
from kmsd.domain.material import MaterialStatus, key_material_id
from kmsd.errors import NotFoundException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: DeleteImportedKeyMaterial, Request Parameters; the second is newer."""

    key_id: shapes.KeyId
    key_material_id: shapes.KeyMaterialId | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: DeleteImportedKeyMaterial has an empty body; current clients read these."""

    key_id: shapes.KeyId
    key_material_id: shapes.KeyMaterialId | None = None


async def prepare(_: Request, call: WriteCall) -> None:
    """Refuse while the token is unavailable: the object must be destroyed before the response."""
    await call.token.check()


async def handle(request: Request, call: WriteCall) -> Response:
    """Mark the object `destroying` with the key's new state; destroy it and look it up again before the response.

    A key that does not hold the material does not change, but a destruction that an earlier call left unfinished is
    completed. Without KeyMaterialId it is the current material.
    """
    known = await call.reader.imported_materials(call.key.key_id)
    name = request.key_material_id
    record = imported_material.current(known) if name is None else imported_material.named(known, name)
    if record is None and name is not None:
        raise NotFoundException(f"KeyMaterialId {name} is not that of {call.key.arn}.")
    if record is None:
        return Response(key_id=call.key.arn)
    destroying = await imported_material.delete(call.transaction, call.key, record, call.now)
    if destroying is None:
        left = await call.reader.token_object(record.material_id)
        destroying = record.material_id if left is not None and left.status is MaterialStatus.DESTROYING else None
    if destroying is not None:
        call.after_commit.append(partial(token_objects.destroy, call.dependencies.store, call.token, destroying))
    return Response(key_id=call.key.arn, key_material_id=key_material_id(record.material_id))


OPERATION = Operation(
    KMS,
    "DeleteImportedKeyMaterial",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.DELETE_MATERIAL),),
    raises=(NotFoundException,),
    writes=True,
    prepare=prepare,
)
