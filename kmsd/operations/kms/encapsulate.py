"""Encapsulate: make a secret and its ML-KEM ciphertext."""

from __future__ import annotations

from kmsd.custody import key_encapsulation
from kmsd.domain.key_spec import KeyUsage
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: Encapsulate, Request Parameters."""

    key_id: shapes.KeyId
    encapsulation_algorithm: shapes.EncapsulationAlgorithm
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: Encapsulate, Response Elements."""

    key_id: shapes.KeyId
    shared_secret: shapes.Plaintext
    shared_secret_ciphertext_blob: shapes.CiphertextBlob
    encapsulation_algorithm: shapes.EncapsulationAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Return a fresh secret and its ciphertext."""
    secret, ciphertext = await key_encapsulation.encapsulate(call.tokens, call.key, call.now)
    return Response(
        key_id=call.key.arn,
        shared_secret=secret,
        shared_secret_ciphertext_blob=ciphertext,
        encapsulation_algorithm=request.encapsulation_algorithm,
    )


OPERATION = Operation(
    KMS,
    "Encapsulate",
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
    raises=(KeyUnavailableException,),
)
