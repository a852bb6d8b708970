"""From what a request names to the thing itself: keys by id, ARN or alias, and by the blob they sealed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kmsd.authz.lockout import default_key_policy
from kmsd.cloudwatch_logs.access import find_log_group, find_log_groups, find_logs_key
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.alias import check_prefix
from kmsd.domain.arn import KeyName, parse_key_name
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_state import KeyState
from kmsd.errors import InvalidCiphertextException, NotFoundException
from kmsd.operations.declaration import (
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
    OnNewKey,
    Target,
    Unrestricted,
)

_NO_KEY = "00000000-0000-4000-8000-000000000000"
"""No key's id: it stands for that of a key which is not there."""


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
        case OnAccount() | OnNewKey() | Unrestricted():
            target = _without_resource(access, request, call)
    return () if target is None else (target,)


def _without_resource(
    access: OnAccount | OnNewKey | Unrestricted, request: msgspec.Struct, call: Call
) -> Target | None:
    """What stands for a resource that is not there, or not yet."""
    if not isinstance(access, OnNewKey):
        return Target(arn="*")
    return Target(arn=call.world.place.key(call.caller.account, "*")) if getattr(request, access.when) else None


async def find_key(text: str, call: Call, *, aliases: bool) -> Target:
    """The key that `text` names.

    Of another account nothing is told: what is not there is found as `absent`, and refused like what is forbidden.
    """
    place = call.world.place
    name = parse_key_name(text, caller_account=call.caller.account, place=place, aliases=aliases)
    if name.alias:
        return await _find_alias_key(name, call)
    key = await _key_of(name.key_id, call, account=name.account)
    if name.account != call.caller.account:
        return _foreign(place.key(name.account, name.key_id), name, key, call)
    if key is None:
        raise NotFoundException(f"Key '{place.key(name.account, name.key_id)}' does not exist")
    return Target(key.arn, key)


async def _key_of(key_id: str, call: Call, *, account: str | None = None) -> Key | None:
    """A key that exists now; of this account only, if one is given."""
    key = await call.books.key(key_id)
    if key is None or account not in (None, key.account) or not key.exists_at(call.now):
        return None
    return key


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
    key = await _key_of(blob.key_id, call)
    if key is None:
        stand_in = _stand_in(call.caller.account, call)
        return Target(arn=stand_in.arn, key=stand_in, blob=blob, by_blob=True, absent=True)
    return Target(arn=key.arn, key=key, blob=blob, by_blob=True)


async def _find_alias_key(name: KeyName, call: Call) -> Target:
    """The key behind an alias."""
    arn = call.world.place.alias(name.account, name.alias)
    alias = await call.books.alias(name.account, name.alias)
    key = None if alias is None else await _key_of(alias.key_id, call, account=name.account)
    if name.account != call.caller.account:
        return _foreign(arn, name, key, call)
    if key is None:
        raise NotFoundException(f"Alias {arn} is not found.")
    return Target(arn=key.arn, key=key, alias=name.alias)


def _foreign(arn: str, name: KeyName, key: Key | None, call: Call) -> Target:
    """What a client calls `arn`, of another account: a refusal names that, and tells nothing of what is behind it."""
    found = key or _stand_in(name.account, call)
    return Target(arn=found.arn, key=found, alias=name.alias, named=arn, absent=key is None)


def _stand_in(account: str, call: Call) -> Key:
    """Stand for a key that is not there, so that its refusal takes the same work as that of one that is.

    Always by the same id: whoever makes up ids fills no cache.
    """
    place = call.world.place
    return Key(
        key_id=_NO_KEY,
        account=account,
        arn=place.key(account, _NO_KEY),
        description="",
        origin=Origin.AWS_KMS,
        state=KeyState.ENABLED,
        policy=default_key_policy(account, place.partition),
        created_at=call.now,
        current_material=None,
    )
