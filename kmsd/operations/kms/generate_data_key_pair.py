"""GenerateDataKeyPair: generate a key pair for the client, its private key in plaintext and encrypted."""

from __future__ import annotations

from kmsd.custody import data_key_pairs, encryption
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import current_material_id, refuse


class Request(shapes.Shape, frozen=True):
    """Reference: GenerateDataKeyPair, Request Parameters."""

    key_id: shapes.KeyId
    key_pair_spec: shapes.DataKeyPairSpec
    encryption_context: shapes.EncryptionContext = {}
    grant_tokens: shapes.GrantTokens = []
    recipient: shapes.RecipientInfo | None = None
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: GenerateDataKeyPair, Response Elements."""

    private_key_ciphertext_blob: shapes.CiphertextBlob
    private_key_plaintext: shapes.Plaintext
    public_key: shapes.PublicKey
    key_id: shapes.KeyId
    key_pair_spec: shapes.DataKeyPairSpec
    key_material_id: shapes.KeyMaterialId | None


async def handle(request: Request, call: Call) -> Response:
    """Return the pair, and a blob of the private key."""
    refuse(request, "recipient")
    pair = await data_key_pairs.generate(call.token, KeySpec(request.key_pair_spec))
    blob = await encryption.encrypt(call.tokens, call.key, call.now, pair.private_key, request.encryption_context)
    return Response(
        private_key_ciphertext_blob=blob,
        private_key_plaintext=pair.private_key,
        public_key=pair.public_key,
        key_id=call.key.arn,
        key_pair_spec=request.key_pair_spec,
        key_material_id=current_material_id(call.key),
    )


OPERATION = Operation(
    KMS,
    "GenerateDataKeyPair",
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
