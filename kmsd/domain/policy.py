"""Policy documents as nouns: what a key policy, identity policy, trust policy or session policy says.

These hold the text of the document's elements, checked and ordered; `kmsd.authz` reads, compiles and
evaluates them.
"""

from __future__ import annotations

from enum import Enum, StrEnum

import msgspec


class PolicyKind(Enum):
    """What a policy is attached to, which decides the elements that it must and must not have."""

    KEY = "key-policy"
    """On a key: Principal required; a statement without Action or Resource is kept and has no effect."""
    IDENTITY = "identity-policy"
    """On a user or role: Principal forbidden."""
    TRUST = "trust-policy"
    """On a role, who may assume it: Principal required, Resource forbidden."""
    SESSION = "session-policy"
    """Passed to AssumeRole: as IDENTITY."""


class Effect(StrEnum):
    """What a statement does to the requests that it describes."""

    ALLOW = "Allow"
    DENY = "Deny"


class Principals(msgspec.Struct, frozen=True):
    """The value of Principal or NotPrincipal."""

    everyone: bool = False
    """`"*"` or `{"AWS": "*"}`; the documentation says that they are equivalent."""
    accounts: tuple[str, ...] = ()
    """Account principals as written: 12 digits, or the ARN that ends in `:root`."""
    entities: tuple[str, ...] = ()
    """ARNs of users, roles and assumed-role sessions. Never with wildcards."""
    services: tuple[str, ...] = ()
    """Service principals, such as `logs.us-east-1.amazonaws.com`."""
    unmatched: tuple[str, ...] = ()
    """Federated users, identity providers, canonical users: accepted, and nobody here is one."""


class Condition(msgspec.Struct, frozen=True):
    """One operator applied to one condition key. A statement's conditions must all hold."""

    operator: str
    """As written: `ForAnyValue:StringLikeIfExists`."""
    key: str
    """As written; compared without regard to case."""
    values: tuple[str, ...]
    """At least one; JSON numbers and booleans as their text."""


class Statement(msgspec.Struct, frozen=True):
    """One statement. Of each element and its `Not…` form at most one is present; None: neither is."""

    number: int
    """Its place in the document, from 0."""
    sid: str | None
    effect: Effect
    principals: Principals | None = None
    excludes_principals: bool = False
    """`principals` is the value of NotPrincipal."""
    actions: tuple[str, ...] | None = None
    excludes_actions: bool = False
    resources: tuple[str, ...] | None = None
    excludes_resources: bool = False
    conditions: tuple[Condition, ...] = ()

    @property
    def label(self) -> str:
        """The Sid, or `#n` where there is none; for audit records and explanations."""
        return self.sid or f"#{self.number}"


class Policy(msgspec.Struct, frozen=True):
    """A whole document."""

    kind: PolicyKind
    version: str
    policy_id: str | None
    statements: tuple[Statement, ...]

    @property
    def has_variables(self) -> bool:
        """Whether `${…}` is a policy variable: only since version 2012-10-17; earlier it is plain text."""
        return self.version == "2012-10-17"
