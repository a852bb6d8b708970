"""ListResourceTags: list the tags of a key."""

from __future__ import annotations

from kmsd.custody.pagination import MAX_PAGE, Pager
from kmsd.domain.key_state import Usable
from kmsd.errors import InvalidMarkerException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Call, Operation
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: ListResourceTags, Request Parameters."""

    key_id: shapes.KeyId
    limit: shapes.Limit = 50
    marker: shapes.Marker | None = None


class Response(shapes.Shape, frozen=True):
    """Reference: ListResourceTags, Response Elements."""

    tags: list[shapes.Tag]
    truncated: bool
    next_marker: shapes.Marker | None = None


async def handle(request: Request, call: Call) -> Response:
    """Return a page, sorted by tag key."""
    key_id = call.key.key_id
    pager = Pager(await call.service_sealer(), f"ListResourceTags:{key_id}", {}, min(request.limit, MAX_PAGE))
    after = await pager.start(request.marker)
    found = sorted(item for item in (await call.reader.tags_of(key_id)).items() if item[0] > after)
    page = await pager.cut(found, lambda item: item[0])
    return Response(
        tags=[shapes.Tag(tag_key=name, tag_value=value) for name, value in page.items],
        truncated=page.truncated,
        next_marker=page.next_marker,
    )


OPERATION = Operation(
    KMS,
    "ListResourceTags",
    Request,
    Response,
    handle,
    access=(OnKey("key_id", Usable.ANY),),
    raises=(InvalidMarkerException,),
)
