"""ReEncrypt: re-encrypt under another key or context. The plaintext does not leave the daemon."""

from __future__ import annotations

from kmsd.custody import encryption
from kmsd.domain.key_spec import SYMMETRIC_DEFAULT, KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import (
    IncorrectKeyException,
    InvalidCiphertextException,
    KeyUnavailableException,
    UnsupportedOperationException,
)
from kmsd.operations.access import OnCiphertext, OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.ciphertext import ciphertext_of
from kmsd.operations.kms.symmetric import current_material_id


class Request(shapes.Shape, frozen=True):
    """Reference: ReEncrypt, Request Parameters; `SourceKeyId` and what follows are newer."""

    destination_key_id: shapes.KeyId
    ciphertext_blob: shapes.CiphertextBlob | None = None
    source_encryption_context: shapes.EncryptionContext = {}
    destination_encryption_context: shapes.EncryptionContext = {}
    grant_tokens: shapes.GrantTokens = []
    source_key_id: shapes.KeyId | None = None
    source_encryption_algorithm: shapes.EncryptionAlgorithm | None = None
    destination_encryption_algorithm: shapes.EncryptionAlgorithm | None = None
    dry_run: bool | None = None
    dry_run_modifiers: shapes.DryRunModifiers | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ReEncrypt, Response Elements."""

    ciphertext_blob: shapes.CiphertextBlob
    source_key_id: shapes.KeyId
    key_id: shapes.KeyId
    source_encryption_algorithm: shapes.EncryptionAlgorithm
    destination_encryption_algorithm: shapes.EncryptionAlgorithm
    source_key_material_id: shapes.KeyMaterialId | None
    destination_key_material_id: shapes.KeyMaterialId | None


async def handle(request: Request, call: Call) -> Response:
    """Decrypt under the source key, encrypt under the destination key."""
    source, destination = call.key_at(0), call.key_at(1)
    algorithm = request.destination_encryption_algorithm or SYMMETRIC_DEFAULT
    ciphertext = ciphertext_of(request, call, request.source_encryption_algorithm)
    opened = await encryption.decrypt_any(call.tokens, source, call.now, ciphertext, request.source_encryption_context)
    blob = await encryption.encrypt(
        call.tokens,
        destination,
        call.now,
        opened.plaintext,
        request.destination_encryption_context,
        algorithm=algorithm,
    )
    return Response(
        ciphertext_blob=blob,
        source_key_id=source.arn,
        key_id=destination.arn,
        source_encryption_algorithm=request.source_encryption_algorithm or SYMMETRIC_DEFAULT,
        destination_encryption_algorithm=algorithm,
        source_key_material_id=opened.key_material_id,
        destination_key_material_id=current_material_id(destination),
    )


OPERATION = Operation(
    KMS,
    "ReEncrypt",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnCiphertext(
            "ciphertext_blob",
            Usable.ENABLED,
            key_member="source_key_id",
            context="source_encryption_context",
            usage=KeyUsage.ENCRYPT_DECRYPT,
            algorithm="source_encryption_algorithm",
            action="ReEncryptFrom",
        ),
        OnKey(
            "destination_key_id",
            Usable.ENABLED,
            aliases=True,
            context="destination_encryption_context",
            usage=KeyUsage.ENCRYPT_DECRYPT,
            algorithm="destination_encryption_algorithm",
            action="ReEncryptTo",
        ),
    ),
    raises=(
        IncorrectKeyException,
        InvalidCiphertextException,
        KeyUnavailableException,
        UnsupportedOperationException,
    ),
)
