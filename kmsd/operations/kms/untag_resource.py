"""UntagResource: remove tags from a key."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.errors import TagException
from kmsd.operations.access import OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes, tag_rules


class Request(shapes.Shape, frozen=True):
    """Reference: UntagResource, Request Parameters."""

    key_id: shapes.KeyId
    tag_keys: shapes.TagKeys


async def handle(request: Request, call: WriteCall) -> None:
    """Remove the tags. Absent tags are no error."""
    tag_rules.check_keys(request.tag_keys)
    await call.transaction.delete_tags(call.key.key_id, request.tag_keys)


OPERATION = Operation(
    KMS,
    "UntagResource",
    Request,
    None,
    handle,
    access=(OnKey("key_id", Usable.NOT_PENDING_DELETION),),
    raises=(TagException,),
    writes=True,
)
