"""Parsed policy documents: key policies, identity policies, trust policies and session policies.

These types hold the checked text of the document's elements. `kmsd.authz` parses, compiles and evaluates them.
"""

from __future__ import annotations

from enum import Enum, StrEnum

import msgspec


class PolicyKind(Enum):
    """Kind of a policy: decides which elements are required and which are forbidden."""

    KEY = "key-policy"
    """On a key: Principal required. A statement without Action or Resource is kept and has no effect."""
    IDENTITY = "identity-policy"
    """On a user or role: Principal forbidden."""
    TRUST = "trust-policy"
    """On a role, for the principals that may assume it: Principal required, Resource forbidden."""
    SESSION = "session-policy"
    """Passed to AssumeRole: same elements as IDENTITY."""


class Effect(StrEnum):
    """Effect of a statement on matching requests."""

    ALLOW = "Allow"
    DENY = "Deny"


class Principals(msgspec.Struct, frozen=True):
    """The value of Principal or NotPrincipal."""

    everyone: bool = False
    """`"*"` or `{"AWS": "*"}`, which are equivalent according to AWS's documentation."""
    accounts: tuple[str, ...] = ()
    """Account principals as written: 12 digits, or an ARN that ends in `:root`."""
    entities: tuple[str, ...] = ()
    """ARNs of users, roles and assumed-role sessions. Never with wildcards."""
    services: tuple[str, ...] = ()
    """Service principals, such as `logs.us-east-1.amazonaws.com`."""
    federated: tuple[str, ...] = ()
    """ARNs of issuers of web tokens (`arn:aws:iam::A:oidc-provider/HOST/PATH`)."""
    unmatched: tuple[str, ...] = ()
    """Federated users, canonical users: accepted, but they match no caller of kmsd."""


class Condition(msgspec.Struct, frozen=True):
    """One operator applied to one condition key. A statement's conditions must all hold."""

    operator: str
    """Operator as written: `ForAnyValue:StringLikeIfExists`."""
    key: str
    """Condition key as written. Compared without regard to case."""
    values: tuple[str, ...]
    """At least one value. JSON numbers and booleans as their text."""


class Statement(msgspec.Struct, frozen=True):
    """A statement. At most one of an element and its `Not…` form is present; None: neither is."""

    number: int
    """Position in the document, from 0."""
    sid: str | None
    effect: Effect
    principals: Principals | None = None
    excludes_principals: bool = False
    """True if `principals` is the value of NotPrincipal."""
    actions: tuple[str, ...] | None = None
    excludes_actions: bool = False
    resources: tuple[str, ...] | None = None
    excludes_resources: bool = False
    conditions: tuple[Condition, ...] = ()

    @property
    def label(self) -> str:
        """The Sid, or `#n` if there is none; for audit records and explanations."""
        return self.sid or f"#{self.number}"


class Policy(msgspec.Struct, frozen=True):
    """A whole document."""

    kind: PolicyKind
    version: str
    policy_id: str | None
    statements: tuple[Statement, ...]

    @property
    def has_variables(self) -> bool:
        """True if `${…}` is a policy variable. Before version 2012-10-17 it is plain text."""
        return self.version == "2012-10-17"
