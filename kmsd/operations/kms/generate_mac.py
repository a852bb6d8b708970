"""GenerateMac: compute an HMAC in the token."""

from __future__ import annotations

from kmsd.custody import macs
from kmsd.domain.key_spec import KeyUsage, MacAlgorithm
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: GenerateMac, Request Parameters."""

    key_id: shapes.KeyId
    message: shapes.Plaintext
    mac_algorithm: shapes.MacAlgorithm
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: GenerateMac, Response Elements."""

    key_id: shapes.KeyId
    mac: shapes.Mac
    mac_algorithm: shapes.MacAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Return the MAC of the message."""
    mac = await macs.compute(call.tokens, call.key, call.now, MacAlgorithm(request.mac_algorithm), request.message)
    return Response(key_id=call.key.arn, mac=mac, mac_algorithm=request.mac_algorithm)


OPERATION = Operation(
    KMS,
    "GenerateMac",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnKey("key_id", Usable.ENABLED, aliases=True, usage=KeyUsage.GENERATE_VERIFY_MAC, algorithm="mac_algorithm"),
    ),
    raises=(KeyUnavailableException,),
)
