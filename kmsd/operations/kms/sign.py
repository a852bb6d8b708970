"""Sign: sign a message, or the digest of one, in the token."""

from __future__ import annotations

from kmsd.custody import signatures
from kmsd.domain.key_spec import KeyUsage, MessageType, SigningAlgorithm
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: Sign, Request Parameters."""

    key_id: shapes.KeyId
    message: shapes.Plaintext
    signing_algorithm: shapes.SigningAlgorithm
    message_type: shapes.MessageType = "RAW"
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Sign, Response Elements."""

    key_id: shapes.KeyId
    signature: shapes.Signature
    signing_algorithm: shapes.SigningAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Sign with the key."""
    message = signatures.signed_message(
        SigningAlgorithm(request.signing_algorithm), request.message, MessageType(request.message_type)
    )
    signature = await signatures.sign(call.tokens, call.key, call.now, message)
    return Response(key_id=call.key.arn, signature=signature, signing_algorithm=request.signing_algorithm)


OPERATION = Operation(
    KMS,
    "Sign",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(OnKey("key_id", Usable.ENABLED, aliases=True, usage=KeyUsage.SIGN_VERIFY, algorithm="signing_algorithm"),),
    raises=(KeyUnavailableException, UnsupportedOperationException),
)
