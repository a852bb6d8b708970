"""ListKeyRotations: list the rotations of a key, or all its key material."""

from __future__ import annotations

from datetime import datetime
from operator import itemgetter

from msgspec.structs import replace

from kmsd.custody import imported_material
from kmsd.custody.pagination import Pager
from kmsd.domain.key import ExpirationModel, Key, Origin
from kmsd.domain.key_import import ImportedMaterial, KeyMaterialState
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material, RotationType, key_material_id
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
    """Return a page, oldest first. A key's first material is no rotation, and neither is pending material."""
    every = request.include_key_material == "ALL_KEY_MATERIAL"
    pager = Pager(
        await call.service_sealer(), f"ListKeyRotations:{call.key.key_id}", {"all": str(every)}, request.limit
    )
    after = await pager.start(request.marker)
    listed = await (_imported(call) if call.key.origin is Origin.EXTERNAL else _generated(call))
    found = [
        (position, entry)
        for position, entry in listed
        if (every or entry.rotation_date is not None) and position > after
    ]
    page = await pager.cut(found, itemgetter(0))
    return Response(
        rotations=[entry for _, entry in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


def _position(since: datetime, material_id: bytes) -> str:
    """Return a material's position, which sorts like the list."""
    return f"{since.isoformat(timespec='microseconds')} {material_id.hex()}"


async def _generated(call: Call) -> list[tuple[str, shapes.RotationsListEntry]]:
    """Return position and entry of each material that the token has generated."""
    materials = await call.reader.rotations_of(call.key.key_id)
    return [(_position(one.created_at, one.material_id), _generated_entry(one, call.key)) for one in materials]


def _generated_entry(material: Material, key: Key) -> shapes.RotationsListEntry:
    current = key.current_material
    is_current = current is not None and current.material_id == material.material_id
    return shapes.RotationsListEntry(
        key_id=key.arn,
        key_material_id=material.key_material_id,
        key_material_state=KeyMaterialState.CURRENT if is_current else KeyMaterialState.NON_CURRENT,
        rotation_date=None if material.rotation_type is None else material.created_at.timestamp(),
        rotation_type=None if material.rotation_type is None else material.rotation_type.value,
    )


async def _imported(call: Call) -> list[tuple[str, shapes.RotationsListEntry]]:
    """Return position and entry of each material that was imported."""
    records = await call.reader.imported_materials(call.key.key_id)
    return [(_position(one.imported_at, one.material_id), _imported_entry(one, call.key, call.now)) for one in records]


def _imported_entry(record: ImportedMaterial, key: Key, now: datetime) -> shapes.RotationsListEntry:
    """Return the entry. Material that is deleted or has expired has no expiration."""
    entry = shapes.RotationsListEntry(
        key_id=key.arn,
        key_material_id=key_material_id(record.material_id),
        key_material_description=record.description or None,
        key_material_state=record.state,
        import_state="PENDING_IMPORT",
        rotation_date=None if record.rotated_at is None else record.rotated_at.timestamp(),
        rotation_type=None if record.rotated_at is None else RotationType.ON_DEMAND,
    )
    if not imported_material.is_imported(record, key.materials, now):
        return entry
    if record.valid_to is None:
        return replace(entry, import_state="IMPORTED", expiration_model=ExpirationModel.DOES_NOT_EXPIRE)
    return replace(
        entry,
        import_state="IMPORTED",
        expiration_model=ExpirationModel.EXPIRES,
        valid_to=record.valid_to.timestamp(),
    )


OPERATION = Operation(
    KMS,
    "ListKeyRotations",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY, is_symmetric=True),),
    raises=(
        InvalidMarkerException,
        UnsupportedOperationException,
    ),
)
