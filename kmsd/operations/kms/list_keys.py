"""ListKeys: list ids and ARNs of all keys of the caller's account."""

from __future__ import annotations

from kmsd.custody.pagination import Pager
from kmsd.errors import InvalidMarkerException
from kmsd.operations.access import OnAccount
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes

DEFAULT_LIMIT = 100
SELF = "SELF"


class Request(shapes.Shape, frozen=True):
    """Reference: ListKeys, Request Parameters; `ResourceOwners` is newer."""

    limit: shapes.Limit = DEFAULT_LIMIT
    marker: shapes.Marker | None = None
    resource_owners: shapes.ResourceOwners | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListKeys, Response Elements."""

    keys: list[shapes.KeyListEntry]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, sorted by key id. Accounts do not share keys, so other owners have none."""
    if request.resource_owners is not None and SELF not in request.resource_owners:
        return Response(keys=[], truncated=False)
    account = call.caller.account
    pager = Pager(await call.service_sealer(), f"ListKeys:{account}", {}, request.limit)
    after = await pager.start(request.marker)
    # A key whose deletion is due counts as deleted, even if the job has not deleted it yet.
    found = await call.reader.key_names_after(account, after, pager.limit + 1, call.now)
    page = await pager.cut(found, lambda entry: entry[0])
    return Response(
        keys=[shapes.KeyListEntry(key_id=key_id, key_arn=arn) for key_id, arn in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


OPERATION = Operation(
    KMS,
    "ListKeys",
    Request,
    Response,
    handle,
    access=(OnAccount(),),
    raises=(InvalidMarkerException,),
)
