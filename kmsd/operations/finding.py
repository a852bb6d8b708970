"""From what a request names to the thing itself: keys by id, ARN or alias, and by the blob they sealed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kmsd.domain import blob as blobs
from kmsd.domain.alias import check_prefix
from kmsd.domain.arn import KeyName, parse_key_name
from kmsd.errors import InvalidCiphertextException, NotFoundException
from kmsd.operations.logs_finding import find_log_group, find_log_groups, find_logs_key
from kmsd.operations.model import (
    Access,
    Call,
    OnAccount,
    OnAlias,
    OnAliasKey,
    OnCiphertext,
    OnKey,
    OnLogGroup,
    OnLogGroups,
    OnLogsKey,
    Target,
    Unrestricted,
)


async def find_targets(access: Access, request: msgspec.Struct, call: Call) -> Sequence[Target]:
    """The targets of one access: one, none where an optional member is absent, or several log groups.

    Raises NotFoundException, InvalidArnException, InvalidCiphertextException, and the Logs side's errors.
    """
    target: Target | None
    match access:
        case OnKey():
            text = getattr(request, access.member)
            if text is None and access.optional:
                return ()
            target = await find_key(text, call, aliases=access.aliases)
        case OnCiphertext():
            target = await _find_sealing_key(access, request, call)
        case OnAlias():
            name = getattr(request, access.member)
            check_prefix(name)
            target = Target(arn=call.world.place.alias(call.caller.account, name))
        case OnAliasKey():
            target = await _find_alias_key(KeyName(call.caller.account, alias=getattr(request, access.member)), call)
        case OnLogGroup():
            target = await find_log_group(access, request, call)
        case OnLogGroups():
            return await find_log_groups(request, call)
        case OnLogsKey():
            target = await find_logs_key(access, request, call)
        case OnAccount() | Unrestricted():
            target = Target(arn="*")
    return () if target is None else (target,)


async def find_key(text: str, call: Call, *, aliases: bool) -> Target:
    """The key that `text` names."""
    place = call.world.place
    name = parse_key_name(text, caller_account=call.caller.account, place=place, aliases=aliases)
    if name.alias:
        return await _find_alias_key(name, call)
    key = await call.books.key(name.key_id)
    if key is None or key.account != name.account or not key.exists_at(call.now):
        raise NotFoundException(f"Key '{place.key(name.account, name.key_id)}' does not exist")
    return Target(key.arn, key)


async def _find_sealing_key(access: OnCiphertext, request: msgspec.Struct, call: Call) -> Target:
    """The key that the request names, or else the one that the blob names."""
    try:
        blob = blobs.parse(getattr(request, access.member))
    except blobs.MalformedBlob as exc:
        raise InvalidCiphertextException(detail=str(exc)) from exc
    named = getattr(request, access.key_member)
    if named is not None:
        found = await find_key(named, call, aliases=True)
        found.blob = blob
        return found
    key = await call.books.key(blob.key_id)
    if key is None or not key.exists_at(call.now):
        raise NotFoundException(f"Key '{call.world.place.key(call.caller.account, blob.key_id)}' does not exist")
    return Target(arn=key.arn, key=key, blob=blob)


async def _find_alias_key(name: KeyName, call: Call) -> Target:
    """The key behind an alias."""
    alias = await call.books.alias(name.account, name.alias)
    key = None if alias is None else await call.books.key(alias.key_id)
    if key is None or key.account != name.account or not key.exists_at(call.now):
        raise NotFoundException(f"Alias {call.world.place.alias(name.account, name.alias)} is not found.")
    return Target(arn=key.arn, key=key, alias=name.alias)
