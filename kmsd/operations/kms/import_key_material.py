"""ImportKeyMaterial: unwrap key material from the client in the token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from kmsd.custody import import_parameters, imported_material, token_objects
from kmsd.custody.import_parameters import ImportTokenPayload
from kmsd.custody.imported_material import Expected, ProvenMaterial
from kmsd.domain.key import ExpirationModel, Key
from kmsd.domain.key_import import ImportedMaterial
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.key_state import Usable
from kmsd.domain.material import key_material_id
from kmsd.errors import (
    ExpiredImportTokenException,
    IncorrectKeyMaterialException,
    InvalidCiphertextException,
    InvalidImportTokenException,
    KMSInvalidStateException,
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
    key_material_id: shapes.KeyMaterialId | None = None
    """Present for symmetric keys only: the others have one material, and no operation that names it."""


class _Prepared(msgspec.Struct, frozen=True):
    claim: ImportTokenPayload
    arrival: ProvenMaterial


async def prepare(request: Request, call: WriteCall) -> _Prepared:
    """Check everything that does not need the token, then unwrap and verify the material in the token."""
    dependencies = call.dependencies
    _valid_to(request, call.now)
    if call.key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        _refuse_members(request, call.key.spec)
    expected = _expected(request, call.key, await call.reader.imported_materials(call.key.key_id), call.now)
    claim = await import_parameters.open_token(
        await call.service_sealer(), request.import_token, call.key.key_id, call.now
    )
    await import_parameters.check_algorithm(
        claim.algorithm, dependencies.tokens, dependencies.refused_wrapping, call.key.spec
    )
    arrival = await imported_material.import_material(
        dependencies.store,
        dependencies.tokens,
        call.key,
        expected,
        wrapping_key=await import_parameters.wrapping_key_of(call.reader, claim),
        algorithm=claim.algorithm,
        blob=request.encrypted_key_material,
        now=call.now,
        created=call.created,
    )
    return _Prepared(claim, arrival)


async def handle(request: Request, call: WriteCall) -> Response:
    """Add the material to the key, or set a new ValidTo for it. The import token must still be valid."""
    claim, arrival = call.prepared.claim, call.prepared.arrival
    import_parameters.refuse_expired(claim, call.now)
    await import_parameters.wrapping_key_of(call.reader, claim)
    destroying = await imported_material.attach(
        call.transaction,
        call.key,
        arrival,
        call.now,
        valid_to=_valid_to(request, call.now),
        description=request.key_material_description,
    )
    if destroying is not None:
        call.after_commit.append(partial(token_objects.destroy, call.dependencies.store, call.token, destroying))
    is_symmetric = call.key.spec is KeySpec.SYMMETRIC_DEFAULT
    name = key_material_id(arrival.imported.material_id) if is_symmetric else None
    return Response(key_id=call.key.arn, key_material_id=name)


def _refuse_members(request: Request, spec: KeySpec) -> None:
    """Refuse the members that are "only usable with symmetric encryption keys" (reference, ImportKeyMaterial)."""
    members = {
        "ImportType": request.import_type,
        "KeyMaterialDescription": request.key_material_description,
        "KeyMaterialId": request.key_material_id,
    }
    for name, value in members.items():
        if value is not None:
            raise UnsupportedOperationException(f"The parameter {name} is not supported with KeySpec {spec}.")


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


def _expected(request: Request, key: Key, known: Sequence[ImportedMaterial], now: datetime) -> Expected:
    """Return the material that the request may bring. Checks ImportType and KeyMaterialId before unwrapping.

    Raises ValidationException, IncorrectKeyMaterialException, and KMSInvalidStateException for new material while other
    is pending rotation.
    """
    is_new = request.import_type == "NEW_KEY_MATERIAL"
    if is_new and request.key_material_id is not None:
        raise ValidationException("KeyMaterialId cannot be set if the ImportType is NEW_KEY_MATERIAL.")
    waiting = imported_material.pending(known)
    if is_new and waiting is not None and imported_material.is_imported(waiting, key.materials, now):
        raise KMSInvalidStateException(
            f"New key material cannot be imported into KMS key {key.arn}, because another key material "
            f"(id: {key_material_id(waiting.material_id)}) is pending rotation."
        )
    if not known and (request.import_type == "EXISTING_KEY_MATERIAL" or request.key_material_id is not None):
        raise IncorrectKeyMaterialException(f"No key material was imported into {key.arn} before.")
    if request.key_material_id is None:
        return Expected(known, is_new or not known)
    record = imported_material.named(known, request.key_material_id)
    if record is None:
        raise IncorrectKeyMaterialException(f"KeyMaterialId {request.key_material_id} is not that of {key.arn}.")
    return Expected(known, is_new=False, material_id=record.material_id)


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
        KMSInvalidStateException,
        UnsupportedOperationException,
    ),
    writes=True,
    prepare=prepare,
)
