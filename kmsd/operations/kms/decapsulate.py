"""Decapsulate: return the secret of an ML-KEM ciphertext."""

from __future__ import annotations

from kmsd.custody import key_encapsulation
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import InvalidCiphertextException, KeyUnavailableException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: Decapsulate, Request Parameters."""

    key_id: shapes.KeyId
    shared_secret_ciphertext_blob: shapes.CiphertextBlob
    encapsulation_algorithm: shapes.EncapsulationAlgorithm
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Decapsulate, Response Elements."""

    key_id: shapes.KeyId
    shared_secret: shapes.Plaintext
    encapsulation_algorithm: shapes.EncapsulationAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Return the secret. A changed ciphertext of the right length gives another secret, without an error."""
    secret = await key_encapsulation.decapsulate(call.tokens, call.key, call.now, request.shared_secret_ciphertext_blob)
    return Response(
        key_id=call.key.arn,
        shared_secret=secret,
        encapsulation_algorithm=request.encapsulation_algorithm,
    )


OPERATION = Operation(
    KMS,
    "Decapsulate",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnKey(
            "key_id",
            Usable.ENABLED,
            aliases=True,
            usage=KeyUsage.ENCAPSULATE_DECAPSULATE,
            algorithm="encapsulation_algorithm",
        ),
    ),
    raises=(InvalidCiphertextException, KeyUnavailableException),
)
