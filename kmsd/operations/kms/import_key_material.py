"""ImportKeyMaterial: unwrap key material from the client in the token."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from kmsd.custody import import_parameters, imported_material
from kmsd.custody.import_parameters import ImportTokenPayload
from kmsd.custody.imported_material import ProvenMaterial
from kmsd.domain.key import ExpirationModel
from kmsd.domain.key_import import ImportedMaterial
from kmsd.domain.key_state import Usable
from kmsd.domain.material import key_material_id
from kmsd.errors import (
    ExpiredImportTokenException,
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    InvalidImportTokenException,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: ImportKeyMaterial, Request Parameters; the last three are newer."""

    key_id: shapes.KeyId
    import_token: shapes.ImportToken
    encrypted_key_material: shapes.EncryptedKeyMaterial
    valid_to: shapes.ValidTo | None = None
    expiration_model: shapes.ExpirationModel = "KEY_MATERIAL_EXPIRES"
    import_type: shapes.ImportType | None = None
    key_material_description: shapes.KeyMaterialDescription | None = None
    key_material_id: shapes.KeyMaterialId | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ImportKeyMaterial has an empty body; current clients read these."""

    key_id: shapes.KeyId
    key_material_id: shapes.KeyMaterialId


class _Prepared(msgspec.Struct, frozen=True):
    claim: ImportTokenPayload
    arrival: ProvenMaterial


async def prepare(request: Request, call: WriteCall) -> _Prepared:
    """Check everything that does not need the token, then unwrap and verify the material in the token."""
    dependencies = call.dependencies
    _valid_to(request, call.now)
    _check_material(request, await call.reader.imported_material(call.key.key_id), call.key.arn)
    claim = await import_parameters.open_token(
        await call.service_sealer(), request.import_token, call.key.key_id, call.now
    )
    await import_parameters.check_algorithm(claim.algorithm, dependencies.tokens, dependencies.refused_wrapping)
    arrival = await imported_material.import_material(
        dependencies.store,
        dependencies.tokens,
        call.key,
        wrapping_key=await import_parameters.wrapping_key_of(call.reader, claim),
        algorithm=claim.algorithm,
        blob=request.encrypted_key_material,
        now=call.now,
        created=call.created,
    )
    return _Prepared(claim, arrival)


async def handle(request: Request, call: WriteCall) -> Response:
    """Make the material current, or set a new ValidTo for it. The import token must still be valid."""
    claim, arrival = call.prepared.claim, call.prepared.arrival
    import_parameters.refuse_expired(claim, call.now)
    await import_parameters.wrapping_key_of(call.reader, claim)
    key = await imported_material.make_current(
        call.transaction,
        call.key,
        arrival,
        call.now,
        valid_to=_valid_to(request, call.now),
        description=request.key_material_description,
    )
    return Response(key_id=key.arn, key_material_id=key_material_id(arrival.imported.material_id))


def _valid_to(request: Request, now: datetime) -> datetime | None:
    """Return the time at which the material expires; None for never. Raises ValidationException."""
    if request.expiration_model == ExpirationModel.DOES_NOT_EXPIRE:
        if request.valid_to is not None:
            raise ValidationException(
                "A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE"
            )
        return None
    if request.valid_to is None:
        raise ValidationException("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
    valid_to = datetime.fromtimestamp(request.valid_to, UTC)
    if valid_to <= now:
        raise ValidationException("The validTo date must be in the future.")
    return valid_to


def _check_material(request: Request, imported: ImportedMaterial | None, arn: str) -> None:
    """Check ImportType and KeyMaterialId before unwrapping. A key's imported material can never be replaced."""
    if request.import_type == "NEW_KEY_MATERIAL":
        if request.key_material_id is not None:
            raise ValidationException("KeyMaterialId cannot be set if the ImportType is NEW_KEY_MATERIAL.")
        if imported is not None:
            raise UnsupportedOperationException(
                f"{arn} has imported key material already; ImportType NEW_KEY_MATERIAL is not supported for it."
            )
        return
    if imported is None:
        if request.import_type is not None or request.key_material_id is not None:
            raise IncorrectKeyMaterialException(f"No key material was imported into {arn} before.")
    elif request.key_material_id not in (None, key_material_id(imported.material_id)):
        raise IncorrectKeyMaterialException(f"KeyMaterialId {request.key_material_id} is not that of {arn}.")


OPERATION = Operation(
    KMS,
    "ImportKeyMaterial",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.IMPORT),),
    raises=(
        ExpiredImportTokenException,
        IncorrectKeyMaterialException,
        InvalidCiphertextException,
        InvalidImportTokenException,
        UnsupportedOperationException,
    ),
    writes=True,
    prepare=prepare,
)
