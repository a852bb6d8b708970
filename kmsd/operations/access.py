"""Access declarations of KMS and STS: find keys by id, ARN, alias or ciphertext blob, and check their state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from kmsd.authz.lockout import default_key_policy
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.alias import check_prefix
from kmsd.domain.arn import KeyName, parse_key_name
from kmsd.domain.ciphertext_blob import Blob
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_spec import ALGORITHMS, SYMMETRIC_DEFAULT, KeySpec, KeyUsage
from kmsd.domain.key_state import KeyState, StateRule, Usable
from kmsd.errors import (
    InvalidArnException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    NotFoundException,
    ServiceError,
    UnsupportedOperationException,
    ValidationException,
)
from kmsd.operations.declaration import Access, Call, Operation, Target
from kmsd.operations.kms.shapes import camel

_NO_KEY = "00000000-0000-4000-8000-000000000000"
"""Placeholder for the id of a key that does not exist. No key has it."""


class _OfKey(Access, frozen=True):
    """A key whose state is checked."""

    member: str
    """The member that names the key."""
    usable: Usable
    """States and origin in which the operation works."""
    usage: KeyUsage | None = None
    """The usage that the key must have; None: any."""
    algorithm: str | None = None
    """The member that names an algorithm of the key. If it is absent, `SYMMETRIC_DEFAULT` applies."""
    is_symmetric: bool = False
    """True if only symmetric encryption keys work."""
    context: str | None = None
    """The member with the encryption context."""
    action: str | None = None
    """The action to authorise; None: the operation's name."""

    @property
    def states(self) -> Usable | None:
        """States in which the operation works."""
        return self.usable

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Errors for the key's state, origin and usage."""
        refusals = tuple(type(one.error("")) for one in self.usable.row.values() if one is not StateRule.YES)
        origin = (UnsupportedOperationException,) if self.usable.origin else ()
        usage = (InvalidKeyUsageException,) if self.usage else ()
        spec = (self._wrong_spec,) if self.is_symmetric else ()
        # A key's token may lack one of several algorithms.
        has_several = self.usage in {KeyUsage.ENCRYPT_DECRYPT, KeyUsage.SIGN_VERIFY}
        algorithm = (UnsupportedOperationException,) if self.algorithm and has_several else ()
        return (*refusals, *origin, *usage, *spec, *algorithm)

    @property
    def _wrong_spec(self) -> type[ServiceError]:
        """The error for a key that is not symmetric: operations that use a key have one of their own."""
        return UnsupportedOperationException if self.usage is None else InvalidKeyUsageException

    def check(self, operation: Operation[Any, Any], target: Target, request: msgspec.Struct, call: Call) -> None:
        """Check the key's state, origin, usage, spec and algorithm. Raises the first that does not fit."""
        key = target.key
        if key is None:
            return
        state = key.state_at(call.now)
        if state not in self.usable.states or self.usable.origin:
            self.usable.refuse(state, key.origin, key.arn)
        if self.usage is not None and key.usage is not self.usage:
            raise InvalidKeyUsageException(
                f"{key.arn} key usage is {key.usage} which is not valid for {operation.name}."
            )
        if self.is_symmetric and key.spec is not KeySpec.SYMMETRIC_DEFAULT:
            raise self._wrong_spec(f"{key.arn} key spec is {key.spec} which is not valid for {operation.name}.")
        if self.algorithm is not None:
            algorithm = getattr(request, self.algorithm) or SYMMETRIC_DEFAULT
            if algorithm not in key.algorithms:
                raise _unfit(key, algorithm)


def _unfit(key: Key, algorithm: str) -> ServiceError:
    """Return the error for an algorithm that the key does not have."""
    if algorithm in ALGORITHMS[key.spec][key.usage]:
        return UnsupportedOperationException(f"The token of {key.arn} does not offer algorithm {algorithm}.")
    return InvalidKeyUsageException(f"Algorithm {algorithm} and key spec {key.spec} are incompatible.")


class OnKey(_OfKey, frozen=True):
    """A key that a member of the request names."""

    aliases: bool = False
    """True if an alias name or ARN is accepted."""
    optional: bool = False
    """True if the member may be absent; then nothing is found for it."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Errors for the key, and for a name without key."""
        return (*super().errors, NotFoundException, InvalidArnException)

    def words(self) -> str:
        """Describe the key by its member."""
        return f"key `{self.member}`" + (" or its alias" if self.aliases else "")

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Find the key. Raises NotFoundException, InvalidArnException."""
        text = getattr(request, self.member)
        if text is None and self.optional:
            return ()
        return (await find_key(text, call, aliases=self.aliases),)


class OnCiphertext(_OfKey, frozen=True):
    """The key that encrypted the blob in `member`, or the key that the request names for it."""

    key_member: str = "key_id"
    """The member that names the expected key. Custody refuses a blob of another key (IncorrectKeyException)."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Errors for the key, for a malformed blob, and for a name without key."""
        return (*super().errors, NotFoundException, InvalidArnException, InvalidCiphertextException)

    def words(self) -> str:
        """Describe the key by the blob's member."""
        return f"key of `{self.member}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Find the key. Raises InvalidCiphertextException, NotFoundException, InvalidArnException."""
        return (await _find_encryption_key(self, request, call),)


class OnAlias(Access, frozen=True):
    """An alias of the caller's account. It has no policy of its own, so identity policies decide."""

    member: str

    def words(self) -> str:
        """Describe the alias by its member."""
        return f"alias `{self.member}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return the alias's ARN. Raises ValidationException for a name without the prefix."""
        name = getattr(request, self.member)
        check_prefix(name)
        return (Target(arn=call.dependencies.arns.alias(call.caller.account, name)),)


class OnAliasKey(_OfKey, frozen=True):
    """The key to which an alias of the caller's account points."""

    @property
    def errors(self) -> tuple[type[ServiceError], ...]:
        """Errors for the key, and for an alias that does not exist."""
        return (*super().errors, NotFoundException)

    def words(self) -> str:
        """Describe the key."""
        return "the alias's key"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Find the key. Raises NotFoundException."""
        return (await _find_alias_key(KeyName(call.caller.account, alias=getattr(request, self.member)), call),)


class OnAccount(Access, frozen=True):
    """No resource: the caller's identity policies decide, on `*`."""

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `*`."""
        return (Target(arn="*"),)


class OnNewKey(Access, frozen=True):
    """The key that the request creates. It has no policy yet: identity policies decide, on `key/*` of the account."""

    action: str
    """The action to authorise."""
    when: str
    """The member whose presence requires the action."""

    def words(self) -> str:
        """Describe the action, and when it is authorised."""
        return f"the new key for kms:{self.action}, if the request has `{self.when}`"

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `key/*` for the key that does not exist yet; nothing if the member is absent."""
        if not getattr(request, self.when):
            return ()
        return (Target(arn=call.dependencies.arns.key(call.caller.account, "*")),)


class Unrestricted(Access, frozen=True):
    """No authorisation before the handler. `reason` says why."""

    reason: str

    asks_permission: ClassVar[bool] = False

    async def find(self, request: msgspec.Struct, call: Call) -> Sequence[Target]:
        """Return `*`: there is no resource."""
        return (Target(arn="*"),)


async def find_key(text: str, call: Call, *, aliases: bool) -> Target:
    """Find the key that `text` names.

    Nothing about another account's keys is revealed: a key that does not exist there is returned as `absent`, and
    refused like a forbidden one.
    """
    arns = call.dependencies.arns
    name = parse_key_name(text, caller_account=call.caller.account, arns=arns, aliases=aliases)
    if name.alias:
        return await _find_alias_key(name, call)
    key = await call.reader.key(name.key_id)
    if key is not None and (key.account != name.account or not key.exists_at(call.now)):
        key = None
    if name.account != call.caller.account:
        return _foreign(arns.key(name.account, name.key_id), name, key, call)
    if key is None:
        raise NotFoundException(f"Key '{arns.key(name.account, name.key_id)}' does not exist")
    return Target(key.arn, key)


async def _key_of(key_id: str, call: Call, *, account: str | None = None) -> Key | None:
    """Return a key that exists at the time of the call; only of `account`, if given."""
    key = await call.reader.key(key_id)
    if key is None or account not in (None, key.account) or not key.exists_at(call.now):
        return None
    return key


async def _find_encryption_key(access: OnCiphertext, request: msgspec.Struct, call: Call) -> Target:
    """Find the key that the request names, or else the one that the blob names."""
    named = getattr(request, access.key_member)
    blob = _blob(access, request)
    if named is not None:
        found = await find_key(named, call, aliases=True)
        found.blob = blob
        return found
    if blob is None:
        raise ValidationException("KeyId is required for asymmetric KMS keys, and with IGNORE_CIPHERTEXT.")
    key = await _key_of(blob.key_id, call)
    if key is None:
        stand_in = _stand_in(call.caller.account, call)
        return Target(arn=stand_in.arn, key=stand_in, blob=blob, by_blob=True, absent=True)
    return Target(arn=key.arn, key=key, blob=blob, by_blob=True)


def _blob(access: OnCiphertext, request: msgspec.Struct) -> Blob | None:
    """Return the parsed blob; None for the ciphertext of an RSA key, and if the request says to ignore it.

    Raises InvalidCiphertextException, ValidationException.
    """
    content = getattr(request, access.member)
    if getattr(request, "dry_run_modifiers", None):
        if not getattr(request, "dry_run", None):
            raise ValidationException("DryRunModifiers are only valid with DryRun.")
        return None
    if content is None:
        raise ValidationException(
            f"1 validation error detected: Value null at '{camel(access.member)}' failed to satisfy constraint: "
            "Member must not be null"
        )
    algorithm = getattr(request, str(access.algorithm))
    if algorithm not in (None, SYMMETRIC_DEFAULT):
        return None
    try:
        return blobs.parse(content)
    except blobs.MalformedBlob as exc:
        raise InvalidCiphertextException(detail=str(exc)) from exc


async def _find_alias_key(name: KeyName, call: Call) -> Target:
    """Find the key of an alias."""
    arn = call.dependencies.arns.alias(name.account, name.alias)
    alias = await call.reader.alias(name.account, name.alias)
    key = None if alias is None else await _key_of(alias.key_id, call, account=name.account)
    if name.account != call.caller.account:
        return _foreign(arn, name, key, call)
    if key is None:
        raise NotFoundException(f"Alias {arn} is not found.")
    return Target(arn=key.arn, key=key, alias=name.alias)


def _foreign(arn: str, name: KeyName, key: Key | None, call: Call) -> Target:
    """Return the target for a name in another account. A refusal shows only `arn`, the client's own name for it."""
    found = key or _stand_in(name.account, call)
    return Target(arn=found.arn, key=found, alias=name.alias, named=arn, absent=key is None)


def _stand_in(account: str, call: Call) -> Key:
    """Return a placeholder for a key that does not exist, so that its refusal takes the same work as for one that does.

    The id is always the same, so that clients cannot fill caches with invented ids.
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
