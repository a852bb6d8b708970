"""Verify: verify a signature with the key's public half, in the process (`kmsd.custody.signatures`)."""

from __future__ import annotations

from kmsd.custody import signatures
from kmsd.domain.key_spec import KeyUsage, MessageType, SigningAlgorithm
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, KMSInvalidSignatureException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: Verify, Request Parameters."""

    key_id: shapes.KeyId
    message: shapes.Plaintext
    signature: shapes.Signature
    signing_algorithm: shapes.SigningAlgorithm
    message_type: shapes.MessageType = "RAW"
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Verify, Response Elements."""

    key_id: shapes.KeyId
    signature_valid: bool
    signing_algorithm: shapes.SigningAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Confirm a valid signature. "If the signature verification fails, … KMSInvalidSignatureException" (Verify)."""
    message = signatures.signed_message(
        SigningAlgorithm(request.signing_algorithm), request.message, MessageType(request.message_type)
    )
    if not await signatures.verify(call.tokens, call.key, call.now, message, request.signature):
        raise KMSInvalidSignatureException
    return Response(key_id=call.key.arn, signature_valid=True, signing_algorithm=request.signing_algorithm)


OPERATION = Operation(
    KMS,
    "Verify",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(OnKey("key_id", Usable.ENABLED, aliases=True, usage=KeyUsage.SIGN_VERIFY, algorithm="signing_algorithm"),),
    raises=(KeyUnavailableException, KMSInvalidSignatureException, UnsupportedOperationException),
)
