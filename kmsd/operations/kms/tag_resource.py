"""TagResource: add tags to a key, or replace their values."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.errors import TagException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes
from kmsd.operations.kms import tag_rules as tags


class Request(shapes.Shape, frozen=True):
    """Reference: TagResource, Request Parameters."""

    key_id: shapes.KeyId
    tags: list[shapes.Tag]


async def handle(request: Request, call: WriteCall) -> None:
    """Add the tags. Policies that depend on tags see them immediately."""
    new_tags = tags.as_mapping(request.tags)
    tags.check_count({**await call.reader.tags_of(call.key.key_id), **new_tags}, call.dependencies.quotas.tags_per_key)
    await call.transaction.put_tags(call.key.key_id, new_tags)


OPERATION = Operation(
    KMS,
    "TagResource",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.NOT_PENDING_DELETION),),
    raises=(TagException,),
    writes=True,
)
