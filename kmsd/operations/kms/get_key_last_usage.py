"""GetKeyLastUsage: return the last successful cryptographic operation with a key, from the audit trail."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: GetKeyLastUsage, Request Parameters."""

    key_id: shapes.KeyId


class KeyLastUsage(shapes.Shape, frozen=True):
    """The last use; without members if the key was not used."""

    operation: str | None = None
    timestamp: shapes.Timestamp | None = None
    cloud_trail_event_id: str | None = None
    kms_request_id: str | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: GetKeyLastUsage, Response Elements."""

    key_id: shapes.KeyId
    key_last_usage: KeyLastUsage
    tracking_start_date: shapes.Timestamp
    key_creation_date: shapes.Timestamp


async def handle(request: Request, call: Call) -> Response:
    """Return the use that was copied from the trail last: at most two seconds ago."""
    del request
    key = call.key
    use = await call.reader.key_use(key.key_id)
    since = max(key.created_at, await call.reader.usage_tracked_since())
    usage = KeyLastUsage()
    if use is not None:
        usage = KeyLastUsage(use.operation, use.used_at.timestamp(), use.event_id, use.request_id)
    return Response(
        key_id=key.key_id,
        key_last_usage=usage,
        tracking_start_date=since.timestamp(),
        key_creation_date=key.created_at.timestamp(),
    )


OPERATION = Operation(
    KMS,
    "GetKeyLastUsage",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
)
