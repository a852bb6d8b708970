"""DeriveSharedSecret: ECDH with a peer's public key, in the token."""

from __future__ import annotations

from kmsd.custody import key_agreement
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: DeriveSharedSecret, Request Parameters."""

    key_id: shapes.KeyId
    key_agreement_algorithm: shapes.KeyAgreementAlgorithm
    public_key: shapes.PublicKey
    grant_tokens: shapes.GrantTokens = []
    recipient: shapes.RecipientInfo | None = None
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: DeriveSharedSecret, Response Elements."""

    key_id: shapes.KeyId
    shared_secret: shapes.Plaintext
    key_agreement_algorithm: shapes.KeyAgreementAlgorithm
    key_origin: shapes.OriginType


async def handle(request: Request, call: Call) -> Response:
    """Return the raw secret."""
    refuse(request, "recipient")
    secret = await key_agreement.agree(call.tokens, call.key, call.now, request.public_key)
    return Response(
        key_id=call.key.arn,
        shared_secret=secret,
        key_agreement_algorithm=request.key_agreement_algorithm,
        key_origin=call.key.origin.value,
    )


OPERATION = Operation(
    KMS,
    "DeriveSharedSecret",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnKey(
            "key_id", Usable.ENABLED, aliases=True, usage=KeyUsage.KEY_AGREEMENT, algorithm="key_agreement_algorithm"
        ),
    ),
    raises=(KeyUnavailableException, UnsupportedOperationException),
)
