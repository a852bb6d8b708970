"""DeleteAlias: delete an alias. Its key stays."""

from __future__ import annotations

from kmsd.domain.key_state import Usable
from kmsd.operations.access import OnAlias, OnAliasKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: DeleteAlias, Request Parameters."""

    alias_name: shapes.AliasName


async def handle(request: Request, call: WriteCall) -> None:
    """Delete the alias."""
    alias = await call.reader.alias(call.caller.account, request.alias_name)
    if alias is not None:  # admission found it in this transaction
        await call.transaction.delete_alias(alias)


OPERATION = Operation(
    KMS,
    "DeleteAlias",
    Request,
    None,
    handle,
    access=(
        OnAlias("alias_name"),
        OnAliasKey("alias_name", Usable.ANY),
    ),
    writes=True,
)
