"""DescribeKey: return the metadata of a key."""

from __future__ import annotations

from msgspec.structs import replace

from kmsd.custody import imported_material
from kmsd.domain.key import Origin
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.domain.material import key_material_id
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.key_metadata import key_metadata


class Request(shapes.Shape, frozen=True):
    """Reference: DescribeKey, Request Parameters."""

    key_id: shapes.KeyId
    grant_tokens: shapes.GrantTokens = []


class Response(shapes.Shape, frozen=True):
    """Reference: DescribeKey, Response Elements."""

    key_metadata: shapes.KeyMetadata


async def handle(_: Request, call: Call) -> Response:
    """Return the key's metadata at the time of the call. A deleted current material is still the current one.

    CurrentKeyMaterialId "is present for symmetric encryption keys" (reference, KeyMetadata).
    """
    metadata = key_metadata(call.key, call.now)
    is_symmetric = call.key.spec is KeySpec.SYMMETRIC_DEFAULT
    if is_symmetric and call.key.origin is Origin.EXTERNAL and metadata.current_key_material_id is None:
        current = imported_material.current(await call.reader.imported_materials(call.key.key_id))
        if current is not None:
            metadata = replace(metadata, current_key_material_id=key_material_id(current.material_id))
    return Response(key_metadata=metadata)


OPERATION = Operation(
    KMS,
    "DescribeKey",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY, aliases=True),),
    grantable=frozenset(KeySpec),
)
