"""ListRetirableGrants: list the grants whose retiring principal is a given principal of the caller's account."""

from __future__ import annotations

from kmsd.custody.pagination import MAX_PAGE, Pager
from kmsd.domain.grant import Grant
from kmsd.domain.principal import account_of, check_principal
from kmsd.errors import InvalidArnException, InvalidMarkerException, NotFoundException, UnsupportedOperationException
from kmsd.operations.access import OnAccount
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes
from kmsd.operations.kms.grant_list_entry import grant_list_entry
from kmsd.operations.kms.symmetric import refuse


class Request(shapes.Shape, frozen=True):
    """Reference: ListRetirableGrants, Request Parameters."""

    retiring_principal: shapes.Principal
    limit: shapes.Limit = 50
    marker: shapes.Marker | None = None
    retiring_service_principal: shapes.ServicePrincipal | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListRetirableGrants, Response Elements."""

    grants: list[shapes.GrantListEntry]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, sorted by grant id.

    "You can specify any principal in your AWS account". Principals of other accounts are refused.
    """
    refuse(request, "retiring_service_principal")
    principal, account = request.retiring_principal, call.caller.account
    check_principal(principal, call.dependencies.arns.partition)
    if account_of(principal) != account:
        raise NotFoundException(f"{principal} is not a principal of account {account}")
    filters = {"principal": principal}
    pager = Pager(await call.service_sealer(), f"ListRetirableGrants:{account}", filters, min(request.limit, MAX_PAGE))
    after = await pager.start(request.marker)
    found = await call.reader.grants_retirable_by(principal, after, pager.limit + 1, call.now)
    page = await pager.cut(found, lambda grant: grant.grant_id)
    return Response(
        grants=[await _entry(grant, call) for grant in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


async def _entry(grant: Grant, call: Call) -> shapes.GrantListEntry:
    key = await call.reader.key(grant.key_id)
    if key is None:
        raise NotFoundException(f"Key '{grant.key_id}' does not exist")
    return grant_list_entry(grant, key.arn, call.dependencies.arns)


OPERATION = Operation(
    KMS,
    "ListRetirableGrants",
    Request,
    Response,
    handle,
    access=(OnAccount(),),
    raises=(InvalidArnException, InvalidMarkerException, NotFoundException, UnsupportedOperationException),
)
