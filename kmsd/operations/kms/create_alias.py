"""CreateAlias: create an alias for a key of the same account."""

from __future__ import annotations

from kmsd.domain.alias import Alias, check_new_name
from kmsd.domain.key_state import Usable
from kmsd.errors import AlreadyExistsException, InvalidAliasNameException, LimitExceededException
from kmsd.operations.access import OnAlias, OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: CreateAlias, Request Parameters."""

    alias_name: shapes.AliasName
    target_key_id: shapes.KeyId


async def handle(request: Request, call: WriteCall) -> None:
    """Insert the alias. An alias points to one key; a key may have several aliases."""
    check_new_name(request.alias_name)
    account, name = call.caller.account, request.alias_name
    if await call.reader.alias(account, name) is not None:
        raise AlreadyExistsException(
            f"An alias with the name {call.dependencies.arns.alias(account, name)} already exists"
        )
    key = call.key_at(1)
    most = call.dependencies.quotas.aliases_per_key
    if await call.reader.count_aliases(key.key_id) >= most:
        raise LimitExceededException(f"{key.arn} has {most} aliases, which is the limit.")
    await call.transaction.insert_alias(Alias(account, name, key.key_id, call.now, call.now))


OPERATION = Operation(
    KMS,
    "CreateAlias",
    Request,
    None,
    handle,
    access=(
        OnAlias("alias_name"),
        OnKey("target_key_id", Usable.NOT_PENDING_DELETION),
    ),
    raises=(
        AlreadyExistsException,
        InvalidAliasNameException,
        LimitExceededException,
    ),
    writes=True,
)
