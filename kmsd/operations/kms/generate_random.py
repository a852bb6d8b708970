"""GenerateRandom: return bytes of the token's random number generator."""

from __future__ import annotations

from kmsd.errors import UnsupportedOperationException, ValidationException
from kmsd.operations.access import OnAccount
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: GenerateRandom, Request Parameters."""

    number_of_bytes: shapes.NumberOfBytes | None = None
    custom_key_store_id: shapes.CustomKeyStoreId | None = None
    recipient: shapes.RecipientInfo | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: GenerateRandom, Response Elements."""

    plaintext: shapes.Plaintext


async def handle(request: Request, call: Call) -> Response:
    """Return random bytes of the token."""
    refuse(request, "custom_key_store_id", "recipient")
    # The reference says "Required: No", but AWS returns this error if it is missing.
    if request.number_of_bytes is None:
        raise ValidationException("NumberOfBytes is required.")
    return Response(plaintext=await call.token.random(request.number_of_bytes))


OPERATION = Operation(
    KMS,
    "GenerateRandom",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(OnAccount(),),
    raises=(UnsupportedOperationException,),
)
