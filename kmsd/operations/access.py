"""What operations of KMS and STS reach, and how it is found: keys by id, ARN or alias, and by the blob they sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from kmsd.authz.lockout import default_key_policy
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.alias import check_prefix
from kmsd.domain.arn import KeyName, parse_key_name
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import ALGORITHMS, SYMMETRIC_DEFAULT, KeyUsage
from kmsd.domain.key_state import KeyState, StateRule, Usable
from kmsd.errors import (
    InvalidArnException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    NotFoundException,
    ServiceError,
    UnsupportedOperationException,
)
from kmsd.operations.declaration import Access, Call, Operation, Target

_NO_KEY = "00000000-0000-4000-8000-000000000000"
"""No key's id: it stands for that of a key which is not there."""


class _OfKey(Access, frozen=True):
    """A key, whose state decides."""

    member: str
    """Names it."""
    usable: Usable
    """In which states and of which origin it may be."""
    usage: KeyUsage | None = None
    """The usage that the key must have; None: any."""
    algorithm: str | None = None
    """The member that names an algorithm of the key; absent, it means `SYMMETRIC_DEFAULT`."""
    context: str | None = None
    """The member with the encryption context."""
    action: str | None = None
    """The action to authorise; None: the operation's name."""

    @property
    def states(self) -> Usable | None:
        """As the base has it."""
        return self.usable

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """What the key's state and origin may be refused with."""
        refusals = tuple(type(one.error("")) for one in self.usable.row.values() if one is not StateRule.YES)
        origin = (UnsupportedOperationException,) if self.usable.origin else ()
        usage = (InvalidKeyUsageException,) if self.algorithm else ()
        return (*refusals, *origin, *usage)

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Raise what the key's state, origin, usage or spec is refused with."""
        key = target.key
        if key is None:
            return
        self.usable.refuse(key.state_at(call.now), key.origin, key.arn)
        if self.usage is not None and key.usage is not self.usage:
            raise InvalidKeyUsageException(
                f"{key.arn} key usage is {key.usage} which is not valid for {operation.name}."
            )
        if self.algorithm is not None:
            algorithm = getattr(request, self.algorithm) or SYMMETRIC_DEFAULT
            if algorithm not in ALGORITHMS[key.spec]:
                raise InvalidKeyUsageException(
                    f"You cannot use algorithm {algorithm} with {key.arn}: its key spec is {key.spec}."
                )


class OnKey(_OfKey, frozen=True):
    """A key that a member of the request names."""

    aliases: bool = False
    """True if an alias name or ARN is accepted."""
    optional: bool = False
    """True if the member may be absent; then nothing is found for it."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Also of a name that leads to no key."""
        return (*super().errors, NotFoundException, InvalidArnException)

    def words(self) -> str:
        """The key by its member."""
        return f"key `{self.member}`" + (" or its alias" if self.aliases else "")

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Raises NotFoundException, InvalidArnException."""
        text = getattr(request, self.member)
        if text is None and self.optional:
            return ()
        return (await find_key(text, call, aliases=self.aliases),)


class OnCiphertext(_OfKey, frozen=True):
    """The key under which the blob in `member` was sealed, or that the request names as such."""

    key_member: str = "key_id"
    """Names the key the caller expects; custody refuses a blob of another (IncorrectKeyException)."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Also of a blob that is none, and a name that leads to no key."""
        return (*super().errors, NotFoundException, InvalidArnException, InvalidCiphertextException)

    def words(self) -> str:
        """The key by the blob's member."""
        return f"key of `{self.member}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Raises InvalidCiphertextException, NotFoundException, InvalidArnException."""
        return (await _find_encryption_key(self, request, call),)


class OnAlias(Access, frozen=True):
    """An alias of the caller's account; identity policies decide (an alias has no policy of its own)."""

    member: str

    def words(self) -> str:
        """The alias by its member."""
        return f"alias `{self.member}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Raises ValidationException for a name without the prefix."""
        name = getattr(request, self.member)
        check_prefix(name)
        return (Target(arn=call.dependencies.arns.alias(call.caller.account, name)),)


class OnAliasKey(_OfKey, frozen=True):
    """The key that an alias of the caller's account names now."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Also of an alias that does not exist."""
        return (*super().errors, NotFoundException)

    def words(self) -> str:
        """The key behind the alias."""
        return "the alias's key"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Raises NotFoundException."""
        return (await _find_alias_key(KeyName(call.caller.account, alias=getattr(request, self.member)), call),)


class OnAccount(Access, frozen=True):
    """No resource: identity policies of the caller decide, on `*`."""

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `*`, which stands for all resources."""
        return (Target(arn="*"),)


class OnNewKey(Access, frozen=True):
    """The key that the request makes: it has no policy yet, so identity policies decide, on `key/*` of the account."""

    action: str
    """The action to authorise."""
    when: str
    """The member without which nothing is asked."""

    def words(self) -> str:
        """The action, and when it is asked."""
        return f"the new key for kms:{self.action}, if the request has `{self.when}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `key/*`, which stands for the key that is still to be made."""
        if not getattr(request, self.when):
            return ()
        return (Target(arn=call.dependencies.arns.key(call.caller.account, "*")),)


class Unrestricted(Access, frozen=True):
    """Nothing is authorised before the handler; it says why, and does so itself."""

    reason: str

    asks_permission: ClassVar[bool] = False

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `*`, which stands for no resource."""
        return (Target(arn="*"),)


async def find_key(text: str, call: Call, *, aliases: bool) -> Target:
    """The key that `text` names.

    Of another account nothing is told: what is not there is found as `absent`, and refused like what is forbidden.
    """
    arns = call.dependencies.arns
    name = parse_key_name(text, caller_account=call.caller.account, arns=arns, aliases=aliases)
    if name.alias:
        return await _find_alias_key(name, call)
    key = await _key_of(name.key_id, call, account=name.account)
    if name.account != call.caller.account:
        return _foreign(arns.key(name.account, name.key_id), name, key, call)
    if key is None:
        raise NotFoundException(f"Key '{arns.key(name.account, name.key_id)}' does not exist")
    return Target(key.arn, key)


async def _key_of(key_id: str, call: Call, *, account: str | None = None) -> Key | None:
    """A key that exists now; of this account only, if one is given."""
    key = await call.reader.key(key_id)
    if key is None or account not in (None, key.account) or not key.exists_at(call.now):
        return None
    return key


async def _find_encryption_key(access: OnCiphertext, request: msgspec.Struct, call: Call) -> Target:
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
    arn = call.dependencies.arns.alias(name.account, name.alias)
    alias = await call.reader.alias(name.account, name.alias)
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
    arns = call.dependencies.arns
    return Key(
        key_id=_NO_KEY,
        account=account,
        arn=arns.key(account, _NO_KEY),
        description="",
        origin=Origin.AWS_KMS,
        state=KeyState.ENABLED,
        policy=default_key_policy(account, arns.partition),
        created_at=call.now,
        current_material=None,
    )
