"""Decrypt: decrypt in the token, under the key that the blob or the request names."""

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
from kmsd.operations.access import OnCiphertext
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.ciphertext import ciphertext_of
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: Decrypt, Request Parameters; `KeyId` and what follows are newer."""

    ciphertext_blob: shapes.CiphertextBlob | None = None
    encryption_context: shapes.EncryptionContext = {}
    grant_tokens: shapes.GrantTokens = []
    key_id: shapes.KeyId | None = None
    encryption_algorithm: shapes.EncryptionAlgorithm | None = None
    recipient: shapes.RecipientInfo | None = None
    dry_run: bool | None = None
    dry_run_modifiers: shapes.DryRunModifiers | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Decrypt, Response Elements."""

    key_id: shapes.KeyId
    plaintext: shapes.Plaintext
    encryption_algorithm: shapes.EncryptionAlgorithm
    key_material_id: shapes.KeyMaterialId | None


async def handle(request: Request, call: Call) -> Response:
    """Decrypt the blob, or the ciphertext of an RSA key."""
    refuse(request, "recipient")
    key = call.key
    ciphertext = ciphertext_of(request, call, request.encryption_algorithm)
    opened = await encryption.decrypt_any(call.tokens, key, call.now, ciphertext, request.encryption_context)
    return Response(
        key_id=key.arn,
        plaintext=opened.plaintext,
        encryption_algorithm=request.encryption_algorithm or SYMMETRIC_DEFAULT,
        key_material_id=opened.key_material_id,
    )


OPERATION = Operation(
    KMS,
    "Decrypt",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnCiphertext(
            "ciphertext_blob",
            Usable.ENABLED,
            context="encryption_context",
            usage=KeyUsage.ENCRYPT_DECRYPT,
            algorithm="encryption_algorithm",
        ),
    ),
    raises=(
        IncorrectKeyException,
        InvalidCiphertextException,
        KeyUnavailableException,
        UnsupportedOperationException,
    ),
)
