"""GenerateDataKey: generate a data key for the client, in plaintext and encrypted."""

from __future__ import annotations

from kmsd.custody import encryption
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import current_material_id, data_key_length, refuse


class Request(shapes.Shape, frozen=True):
    """Reference: GenerateDataKey, Request Parameters."""

    key_id: shapes.KeyId
    encryption_context: shapes.EncryptionContext = {}
    number_of_bytes: shapes.NumberOfBytes | None = None
    key_spec: shapes.DataKeySpec | None = None
    grant_tokens: shapes.GrantTokens = []
    recipient: shapes.RecipientInfo | None = None
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: GenerateDataKey, Response Elements."""

    ciphertext_blob: shapes.CiphertextBlob
    plaintext: shapes.Plaintext
    key_id: shapes.KeyId
    key_material_id: shapes.KeyMaterialId | None


async def handle(request: Request, call: Call) -> Response:
    """Return random bytes of the token, and a blob of them."""
    refuse(request, "recipient")
    length = data_key_length(request.key_spec, request.number_of_bytes)
    data_key = await call.token.random(length)
    blob = await encryption.encrypt(call.tokens, call.key, call.now, data_key, request.encryption_context)
    return Response(
        ciphertext_blob=blob,
        plaintext=data_key,
        key_id=call.key.arn,
        key_material_id=current_material_id(call.key),
    )


OPERATION = Operation(
    KMS,
    "GenerateDataKey",
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
            is_symmetric=True,
        ),
    ),
    raises=(KeyUnavailableException, UnsupportedOperationException),
)
