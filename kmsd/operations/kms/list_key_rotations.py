"""ListKeyRotations: list the rotations of a key."""

from __future__ import annotations

from kmsd.custody.pagination import Pager
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material
from kmsd.errors import InvalidMarkerException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: ListKeyRotations, Request Parameters."""

    key_id: shapes.KeyId
    include_key_material: shapes.IncludeKeyMaterial = "ROTATIONS_ONLY"
    limit: shapes.Limit = 100
    marker: shapes.Marker | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListKeyRotations, Response Elements."""

    rotations: list[shapes.RotationsListEntry]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, oldest first. A key's first material is no rotation."""
    every = request.include_key_material == "ALL_KEY_MATERIAL"
    pager = Pager(
        await call.service_sealer(), f"ListKeyRotations:{call.key.key_id}", {"all": str(every)}, request.limit
    )
    after = await pager.start(request.marker)
    found = [
        material
        for material in await call.reader.rotations_of(call.key.key_id)
        if (every or material.rotation_type is not None) and _position(material) > after
    ]
    page = await pager.cut(found, _position)
    return Response(
        rotations=[_entry(material, call, every=every) for material in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


def _position(material: Material) -> str:
    """Return a material's position, which sorts like the list."""
    return f"{material.created_at.isoformat(timespec='microseconds')} {material.material_id.hex()}"


def _entry(material: Material, call: Call, *, every: bool) -> shapes.RotationsListEntry:
    current = call.key.current_material
    is_current = current is not None and current.material_id == material.material_id
    return shapes.RotationsListEntry(
        key_id=call.key.arn,
        key_material_id=material.key_material_id,
        key_material_state=("CURRENT" if is_current else "NON_CURRENT") if every else None,
        rotation_date=None if material.rotation_type is None else material.created_at.timestamp(),
        rotation_type=None if material.rotation_type is None else material.rotation_type.value,
    )


OPERATION = Operation(
    KMS,
    "ListKeyRotations",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ROTATION_STATUS),),
    raises=(
        InvalidMarkerException,
        UnsupportedOperationException,
    ),
)
