"""UpdateAlias: point an alias to another key."""

from __future__ import annotations

from kmsd.domain.key import Key
from kmsd.domain.key_state import Usable
from kmsd.errors import LimitExceededException, ValidationException
from kmsd.operations.access import OnAlias, OnAliasKey, OnKey
from kmsd.operations.declaration import KMS, Operation, WriteCall
from kmsd.operations.kms import shapes


class Request(shapes.Shape, frozen=True):
    """Reference: UpdateAlias, Request Parameters."""

    alias_name: shapes.AliasName
    target_key_id: shapes.KeyId


async def handle(request: Request, call: WriteCall) -> None:
    """Change the key of an alias. Requires permission on the alias and on both keys."""
    source, target = call.key_at(1), call.key_at(2)
    _check_same_kind(source, target)
    alias = await call.reader.alias(call.caller.account, request.alias_name)
    if alias is None or alias.key_id == target.key_id:  # admission found it; the same key changes nothing
        return
    most = call.dependencies.quotas.aliases_per_key
    if await call.reader.count_aliases(target.key_id) >= most:
        raise LimitExceededException(f"{target.arn} has {most} aliases, which is the limit.")
    await call.transaction.point_alias(alias, target.key_id, call.now)


def _check_same_kind(source: Key, target: Key) -> None:
    """Check that the alias stays on one kind of key, so that its users' requests keep their meaning.

    "The current and new KMS key must be the same type (both symmetric or both asymmetric or both HMAC), and they must
    have the same key usage" (UpdateAlias).
    """
    if source.usage is not target.usage or source.spec.is_asymmetric is not target.spec.is_asymmetric:
        raise ValidationException(
            f"The key spec and key usage of {target.arn} are not of the same kind as those of {source.arn}."
        )


OPERATION = Operation(
    KMS,
    "UpdateAlias",
    Request,
    None,
    handle,
    access=(
        OnAlias("alias_name"),
        OnAliasKey("alias_name", Usable.ANY),
        OnKey("target_key_id", Usable.NOT_PENDING_DELETION),
    ),
    raises=(LimitExceededException,),
    writes=True,
)
