"""ListAliases: list the aliases of the caller's account, or of one key."""

from __future__ import annotations

from kmsd.custody.pagination import MAX_PAGE, Pager
from kmsd.errors import InvalidArnException, InvalidMarkerException, NotFoundException
from kmsd.operations.access import OnAccount, find_key
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: ListAliases, Request Parameters; `KeyId` is newer."""

    key_id: shapes.KeyId | None = None
    limit: shapes.Limit = 50
    marker: shapes.Marker | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListAliases, Response Elements."""

    aliases: list[shapes.AliasListEntry]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, sorted by name. It is empty for a key of another account, even if that key exists."""
    account, arns = call.caller.account, call.dependencies.arns
    key = None if request.key_id is None else (await find_key(request.key_id, call, aliases=False)).key
    filters = {} if key is None else {"key": key.key_id}
    pager = Pager(await call.service_sealer(), f"ListAliases:{account}", filters, min(request.limit, MAX_PAGE))
    after = await pager.start(request.marker)
    found = await call.reader.aliases_after(
        account, after, pager.limit + 1, key_id=None if key is None else key.key_id, now=call.now
    )
    page = await pager.cut(found, lambda alias: alias.name)
    return Response(
        aliases=[
            shapes.AliasListEntry(
                alias_name=alias.name,
                alias_arn=arns.alias(alias.account, alias.name),
                target_key_id=alias.key_id,
                creation_date=alias.created_at.timestamp(),
                last_updated_date=alias.updated_at.timestamp(),
            )
            for alias in page.items
        ],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


OPERATION = Operation(
    KMS,
    "ListAliases",
    Request,
    Response,
    handle,
    access=(OnAccount(),),
    raises=(InvalidArnException, InvalidMarkerException, NotFoundException),
)
