"""The file of `kmsd apply` and `kmsd export`: users, roles, and what belongs to keys that an alias names.

Access keys are not part of it. A policy is a JSON text or a TOML table; both mean the same document.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from kmsd.authz import actions
from kmsd.authz.new_policy import parse_new
from kmsd.cli.commands.roles import MAX_SESSION_SECONDS, MIN_SESSION_SECONDS
from kmsd.cli.commands.users import check_account, check_name
from kmsd.domain.alias import check_prefix
from kmsd.domain.policy import PolicyKind
from kmsd.errors import ServiceError
from kmsd.exit_codes import InputRefused, WrongUsage
from kmsd.operations.kms import tag_rules
from kmsd.operations.kms.shapes import Tag

Policy = str | dict[str, Any]
"""A policy as it is written."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A table of the file."""

    account: str = ""
    """12 digits; empty: the account of kmsd.toml."""


class UserEntry(_Entry, frozen=True, kw_only=True):
    """`[[users]]`."""

    name: str
    policies: dict[str, Policy] = {}
    tags: dict[str, str] = {}


class RoleEntry(_Entry, frozen=True, kw_only=True):
    """`[[roles]]`."""

    name: str
    trust: Policy
    policies: dict[str, Policy] = {}
    max_session_seconds: int = 3600
    tags: dict[str, str] = {}


class GrantEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`[[keys.grants]]`: a grant, known by its name."""

    name: str
    grantee: str
    operations: tuple[str, ...]
    retiring: str | None = None
    context_equals: dict[str, str] | None = None
    context_subset: dict[str, str] | None = None

    @property
    def terms(self) -> tuple[object, ...]:
        """Equal for grants of a name that are the same."""
        operations = frozenset(self.operations)
        return self.grantee, operations, self.retiring, self.context_equals, self.context_subset


class KeyEntry(_Entry, frozen=True, kw_only=True):
    """`[[keys]]`: a key that exists, named by an alias. What is left out stays as it is."""

    alias: str
    policy: Policy | None = None
    aliases: tuple[str, ...] = ()
    """Further aliases."""
    tags: dict[str, str] | None = None
    grants: tuple[GrantEntry, ...] = ()


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole file."""

    users: tuple[UserEntry, ...] = ()
    roles: tuple[RoleEntry, ...] = ()
    keys: tuple[KeyEntry, ...] = ()


def text_of(policy: Policy) -> str:
    """Return a policy as JSON text."""
    return policy if isinstance(policy, str) else json.dumps(policy, indent=1)


def is_same(one: str, other: str) -> bool:
    """True if two JSON texts are the same document."""
    return one == other or json.loads(one) == json.loads(other)


def parse(text: str, name: str, account: str, claims: Collection[str], policy_bytes: int) -> Document:
    """Parse a file, fill in accounts and check everything that can be wrong with it alone. Raises `InputRefused`.

    `claims`: as `kmsd.authz.new_policy.parse_new`; `policy_bytes`: the limit of key policies.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Document)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise InputRefused(f"{name}: {exc}") from exc
    if unequal := _twice(found):
        raise InputRefused(f"{name}: {unequal} is there twice")
    check = _Check(name, claims, policy_bytes)
    filled = Document(
        *(tuple(_with_account(one, account) for one in entries) for entries in (found.users, found.roles, found.keys))
    )
    for user in filled.users:
        check.user(user)
    for role in filled.roles:
        check.role(role)
    for key in filled.keys:
        check.key(key)
    return filled


def _with_account(entry: Any, account: str) -> Any:
    return msgspec.structs.replace(entry, account=entry.account or account)


def _twice(found: Document) -> str:
    """Return what the file names twice; empty if there is nothing."""
    names = [
        *(f"user {one.name} of {one.account or 'the account'}" for one in found.users),
        *(f"role {one.name} of {one.account or 'the account'}" for one in found.roles),
        *(f"{name} of {one.account or 'the account'}" for one in found.keys for name in (one.alias, *one.aliases)),
        *(f"grant {grant.name} of {one.alias}" for one in found.keys for grant in one.grants),
    ]
    return next((name for number, name in enumerate(names) if name in names[:number]), "") if _has_twice(names) else ""


def _has_twice(names: list[str]) -> bool:
    return len(set(names)) < len(names)


class _Check:
    """Checks of single entries. Each raises `InputRefused`, which names the place."""

    def __init__(self, name: str, claims: Collection[str], policy_bytes: int) -> None:
        self._name = name
        self._claims = claims
        self._policy_bytes = policy_bytes

    def _refuse(self, place: str, problem: object) -> InputRefused:
        return InputRefused(f"{self._name}: {place}: {problem}")

    def _policy(self, place: str, policy: Policy, kind: PolicyKind) -> None:
        text = text_of(policy)
        try:
            parsed = parse_new(text, kind=kind, claims=self._claims)
        except ServiceError as exc:
            raise self._refuse(place, exc.message) from exc
        if kind is PolicyKind.KEY and len(text.encode()) > self._policy_bytes:
            raise self._refuse(place, f"the key policy is longer than {self._policy_bytes} bytes")
        for at, complaint in actions.complaints(parsed):
            raise self._refuse(place, f"{at}: {complaint}")

    def _principal(self, place: str, entry: UserEntry | RoleEntry) -> None:
        try:
            check_name(entry.name)
            check_account(entry.account)
        except WrongUsage as exc:
            raise self._refuse(place, exc) from exc
        self._tags(place, entry.tags)
        for name, policy in entry.policies.items():
            self._policy(f"{place}: policy {name}", policy, PolicyKind.IDENTITY)

    def _tags(self, place: str, tags: Mapping[str, str]) -> None:
        if tag_rules.has_twins(tags):
            raise self._refuse(place, "two tags have the same name but for case")
        try:
            tag_rules.as_mapping(Tag(name, value) for name, value in tags.items())
        except ServiceError as exc:
            raise self._refuse(place, exc.message) from exc

    def user(self, user: UserEntry) -> None:
        """Check a user."""
        self._principal(f"user {user.name}", user)

    def role(self, role: RoleEntry) -> None:
        """Check a role."""
        place = f"role {role.name}"
        self._principal(place, role)
        self._policy(f"{place}: trust policy", role.trust, PolicyKind.TRUST)
        if not MIN_SESSION_SECONDS <= role.max_session_seconds <= MAX_SESSION_SECONDS:
            raise self._refuse(place, f"max_session_seconds must be {MIN_SESSION_SECONDS} to {MAX_SESSION_SECONDS}")

    def key(self, key: KeyEntry) -> None:
        """Check what belongs to a key."""
        place = f"key {key.alias}"
        self._aliases(place, (key.alias, *key.aliases))
        if key.policy is not None:
            self._policy(f"{place}: policy", key.policy, PolicyKind.KEY)
        self._tags(place, key.tags or {})
        for grant in key.grants:
            if grant.context_equals is not None and grant.context_subset is not None:
                raise self._refuse(f"{place}: grant {grant.name}", "it may have one constraint")

    def _aliases(self, place: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                check_prefix(name)
            except ServiceError as exc:
                raise self._refuse(place, exc.message) from exc
