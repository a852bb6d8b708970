"""DeleteImportedKeyMaterial: the material is destroyed in the token; the same can be imported again."""

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
    """Reference: DeleteImportedKeyMaterial has an empty body; today's clients read these."""

    key_id: shapes.KeyId
    key_material_id: shapes.KeyMaterialId | None = None


async def prepare(_: Request, call: WriteCall) -> None:
    """Refuse while the token is away: what is answered must have happened there."""
    await call.token.check()


async def handle(request: Request, call: WriteCall) -> Response:
    """The doom is committed with the state; the object is destroyed and looked for again before the answer.

    Of a key without material nothing changes, but what an earlier call left undone in the token is done.
    """
    imported = await call.reader.imported_material(call.key.key_id)
    named = None if imported is None else key_material_id(imported.material_id)
    if request.key_material_id not in (None, named):
        raise NotFoundException(f"KeyMaterialId {request.key_material_id} is not that of {call.key.arn}.")
    destroying = await imported_material.delete(call.transaction, call.key)
    if destroying is None and imported is not None:
        left = await call.reader.token_object(imported.material_id)
        destroying = imported.material_id if left is not None and left.status is MaterialStatus.DESTROYING else None
    if destroying is not None:
        call.after_commit.append(partial(token_objects.destroy, call.dependencies.store, call.token, destroying))
    return Response(key_id=call.key.arn, key_material_id=named)


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
