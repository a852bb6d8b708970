"""Principals as IAM names them, and the caller of one request."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidArnException

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class PrincipalType(StrEnum):
    """The value of the condition key `aws:PrincipalType`."""

    ACCOUNT = "Account"
    USER = "User"
    ASSUMED_ROLE = "AssumedRole"
    SERVICE = "Service"
    WEB_IDENTITY = "WebIdentityUser"
    """The bearer of a JSON web token of a trusted issuer, who can only assume a role."""


class WebIdentity(msgspec.Struct, frozen=True):
    """A web token whose signature, issuer, audience and time were verified."""

    issuer: str
    """URL."""
    audience: str
    subject: str
    claims: Mapping[str, str | tuple[str, ...]]
    """By folded condition key: `idp.example.com:sub`."""
    tags: Mapping[str, str] = {}
    """Session tags."""
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str = ""


class Caller(msgspec.Struct, frozen=True):
    """The principal that a request is authorised as, with its policies."""

    principal_type: PrincipalType
    arn: str
    """ARN as in CloudTrail: `arn:aws:iam::A:user/N`, `arn:aws:sts::A:assumed-role/R/S`, `arn:aws:iam::A:root`, or, for
    a service of the daemon, `logs.us-east-1.amazonaws.com`; for the bearer of a web token, that of its issuer."""
    account: str
    """12 digits; for a service, the account on whose behalf it acts."""
    principal_id: str
    """`aws:userid`: `AIDA…` for a user, `AROA…:session` for a role session, the account id for root."""
    access_key_id: str = ""
    user_name: str | None = None
    """`aws:username`; users only."""
    role_arn: str | None = None
    """`arn:aws:iam::A:role/R` of an assumed-role session; it is then the value of `aws:PrincipalArn`."""
    issued_at: datetime | None = None
    """Time when the temporary credentials were issued (`aws:TokenIssueTime`); None for long-term ones."""
    tags: Mapping[str, str] = {}
    """`aws:PrincipalTag/*`: those of the user or role, and over them those of the session."""
    transitive_tag_keys: tuple[str, ...] = ()
    """Names of session tags that go on to the next session of a chain of roles."""
    source_identity: str = ""
    """`aws:SourceIdentity`: set by a session's first AssumeRole, and never changed."""
    identity_policies: tuple[str, ...] = ()
    """Policy documents (JSON) attached to the user or role."""
    session_policies: tuple[str, ...] | None = None
    """Policy documents passed to AssumeRole. None: no session policy limits the caller. An empty tuple allows nothing.
    """
    identity_provider: str = ""
    """`aws:FederatedProvider`: ARN of the issuer of the web token that the session was issued for."""
    web_identity: WebIdentity | None = None
    """The web token that this request presents (AssumeRoleWithWebIdentity)."""

    @property
    def grantee_names(self) -> tuple[str, ...]:
        """ARNs that may name this caller as a grantee."""
        return (self.arn,) if self.role_arn is None else (self.arn, self.role_arn)

    @property
    def principal_arn(self) -> str:
        """The value of `aws:PrincipalArn`: the role's ARN for a session, else the principal's own."""
        return self.role_arn or self.arn


class AuthenticatedCaller(msgspec.Struct, frozen=True):
    """A caller whose signature, or web token, was verified. The pipeline accepts no other.

    Only `kmsd.wire.sigv4.claim.authenticate` and `kmsd.wire.web_identity.verification` create one;
    tests/unit/test_key_paths.py checks this.
    """

    caller: Caller


_PRINCIPAL = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?:"
    r"iam::(?P<account>[0-9]{12}):(?:root|user/[\w+=,.@/-]+|role/[\w+=,.@/-]+)|"
    r"sts::(?P<session_account>[0-9]{12}):(?:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+|federated-user/[\w+=,.@-]+))",
    re.ASCII,
)
_SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com(\.cn)?")


def check_principal(text: str, partition: str) -> None:
    """Check that `text` is a service or the ARN of a root, user, role or session. Raises InvalidArnException.

    The principal need not exist: it may be created later (docs/divergences.md).
    """
    found = _PRINCIPAL.fullmatch(text)
    if (found is None or found["partition"] != partition) and not _SERVICE.fullmatch(text):
        raise InvalidArnException(f"ARN does not refer to a valid principal: {text}")


def account_of(text: str) -> str:
    """Return the account of a principal's ARN; empty for a service."""
    found = _PRINCIPAL.fullmatch(text)
    return "" if found is None else found["account"] or found["session_account"]
