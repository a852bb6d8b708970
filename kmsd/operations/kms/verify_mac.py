"""VerifyMac: compute an HMAC in the token, and compare it with the given one in constant time."""

from __future__ import annotations

from kmsd.custody import macs
from kmsd.domain.key_spec import KeyUsage, MacAlgorithm
from kmsd.domain.key_state import Usable
from kmsd.errors import KeyUnavailableException, KMSInvalidMacException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Kind, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: VerifyMac, Request Parameters."""

    key_id: shapes.KeyId
    message: shapes.Plaintext
    mac: shapes.Mac
    mac_algorithm: shapes.MacAlgorithm
    grant_tokens: shapes.GrantTokens = []
    dry_run: bool | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: VerifyMac, Response Elements."""

    key_id: shapes.KeyId
    mac_valid: bool
    mac_algorithm: shapes.MacAlgorithm


async def handle(request: Request, call: Call) -> Response:
    """Confirm a valid MAC. "If the HMAC … verification fails, … KMSInvalidMacException" (VerifyMac)."""
    computed = await macs.compute(call.tokens, call.key, call.now, MacAlgorithm(request.mac_algorithm), request.message)
    if not macs.is_equal(computed, request.mac):
        raise KMSInvalidMacException
    return Response(key_id=call.key.arn, mac_valid=True, mac_algorithm=request.mac_algorithm)


OPERATION = Operation(
    KMS,
    "VerifyMac",
    Request,
    Response,
    handle,
    kind=Kind.CRYPTOGRAPHIC,
    access=(
        OnKey("key_id", Usable.ENABLED, aliases=True, usage=KeyUsage.GENERATE_VERIFY_MAC, algorithm="mac_algorithm"),
    ),
    raises=(KeyUnavailableException, KMSInvalidMacException),
)
