"""Who asks: principals as IAM names them, and the caller of one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class PrincipalType(StrEnum):
    """The value of the condition key `aws:PrincipalType`."""

    ACCOUNT = "Account"
    USER = "User"
    ASSUMED_ROLE = "AssumedRole"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated principal of a request, with the policies that are attached to it."""

    principal_type: PrincipalType
    arn: str
    """Who CloudTrail would name: `arn:aws:iam::A:user/N`, `arn:aws:sts::A:assumed-role/R/S`, `arn:aws:iam::A:root`,
    or, for a service of the daemon, `logs.us-east-1.amazonaws.com`."""
    account: str
    """12 digits; for a service, the account on whose behalf it acts."""
    principal_id: str
    """`aws:userid`: `AIDA…` for a user, `AROA…:session` for a role session, the account id for root."""
    access_key_id: str = ""
    user_name: str | None = None
    """`aws:username`; users only."""
    role_arn: str | None = None
    """`arn:aws:iam::A:role/R` behind an assumed-role session; `aws:PrincipalArn` is this then."""
    issued_at: datetime | None = None
    """When the temporary credentials were issued (`aws:TokenIssueTime`); None for long-term ones."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """`aws:PrincipalTag/*`."""
    identity_policies: tuple[str, ...] = ()
    """Policy documents (JSON) attached to the user or role."""
    session_policies: tuple[str, ...] | None = None
    """Policy documents passed to AssumeRole; None: the session has no such bound. An empty tuple allows nothing."""

    @property
    def principal_arn(self) -> str:
        """The value of `aws:PrincipalArn`: the role's ARN for a session, else the principal's own."""
        return self.role_arn or self.arn
