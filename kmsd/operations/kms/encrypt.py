"""Encrypt: encrypt up to 4096 bytes in the token."""

from __future__ import annotations

from kmsd.custody import encryption
from kmsd.domain.key_spec import SYMMETRIC_DEFAULT, KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: Encrypt, Request Parameters."""

    key_id: shapes.KeyId
    plaintext: shapes.Plaintext
    encryption_context: shapes.EncryptionContext = {}
    grant_tokens: shapes.GrantTokens = []
    encryption_algorithm: shapes.EncryptionAlgorithm | None = None
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Encrypt, Response Elements."""

    ciphertext_blob: shapes.CiphertextBlob
    key_id: shapes.KeyId
    encryption_algorithm: shapes.EncryptionAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Encrypt under the key's current material."""
    key = call.key
    algorithm = request.encryption_algorithm or SYMMETRIC_DEFAULT
    blob = await encryption.encrypt(
        call.tokens, key, call.now, request.plaintext, request.encryption_context, algorithm=algorithm
    )
    return Response(ciphertext_blob=blob, key_id=key.arn, encryption_algorithm=algorithm)


OPERATION = Operation(
    KMS,
    "Encrypt",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnKey(
            "key_id",
            Usable.ENABLED,
            aliases=True,
            context="encryption_context",
            usage=KeyUsage.ENCRYPT_DECRYPT,
            algorithm="encryption_algorithm",
        ),
    ),
    raises=(KeyUnavailableException,),
)
