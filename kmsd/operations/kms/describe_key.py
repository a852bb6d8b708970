"""DescribeKey: return the metadata of a key."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.key_metadata import key_metadata


class Request(shapes.Shape, frozen=True):
    """Reference: DescribeKey, Request Parameters."""

    key_id: shapes.KeyId
    grant_tokens: shapes.GrantTokens = []


class Response(shapes.Shape, frozen=True):
    """Reference: DescribeKey, Response Elements."""

    key_metadata: shapes.KeyMetadata


async def handle(_: Request, call: Call) -> Response:
    """Return the key's metadata at the time of the call."""
    return Response(key_metadata=key_metadata(call.key, call.now))


OPERATION = Operation(
    KMS,
    "DescribeKey",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY, aliases=True),),
)
