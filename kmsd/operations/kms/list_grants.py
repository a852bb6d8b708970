"""ListGrants: list the grants on a key."""

from __future__ import annotations

from kmsd.custody.pagination import MAX_PAGE, Pager
from kmsd.domain.grant import check_grant_id
from kmsd.domain.key_state import Usable
from kmsd.errors import InvalidGrantIdException, InvalidMarkerException, UnsupportedOperationException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.grant_list_entry import grant_list_entry
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: ListGrants, Request Parameters; the filters are newer."""

    key_id: shapes.KeyId
    limit: shapes.Limit = 50
    marker: shapes.Marker | None = None
    grant_id: shapes.GrantId | None = None
    grantee_principal: shapes.Principal | None = None
    grantee_service_principal: shapes.ServicePrincipal | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListGrants, Response Elements."""

    grants: list[shapes.GrantListEntry]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, sorted by grant id."""
    refuse(request, "grantee_service_principal")
    if request.grant_id is not None:
        check_grant_id(request.grant_id)
    key_id = call.key.key_id
    filters = {"grant": request.grant_id or "", "grantee": request.grantee_principal or ""}
    pager = Pager(await call.service_sealer(), f"ListGrants:{key_id}", filters, min(request.limit, MAX_PAGE))
    after = await pager.start(request.marker)
    found = await call.reader.grants_of(
        key_id, after, pager.limit + 1, grant_id=request.grant_id, grantee=request.grantee_principal
    )
    page = await pager.cut(found, lambda grant: grant.grant_id)
    return Response(
        grants=[grant_list_entry(grant, call.key.arn, call.dependencies.arns) for grant in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


OPERATION = Operation(
    KMS,
    "ListGrants",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
    raises=(InvalidGrantIdException, InvalidMarkerException, UnsupportedOperationException),
)
