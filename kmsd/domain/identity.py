"""Users, roles and access keys as the store holds them."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.principal import Caller, PrincipalType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class AccessKeyStatus(StrEnum):
    """Status of an access key, in IAM's words."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"


class User(msgspec.Struct, frozen=True):
    """An IAM user of this daemon."""

    account: str
    name: str
    user_id: str
    """`AIDA…`, 21 characters."""
    arn: str
    created_at: datetime
    policies: Mapping[str, str] = {}
    """Inline identity policies: name to document."""
    tags: Mapping[str, str] = {}


class Role(msgspec.Struct, frozen=True):
    """An IAM role of this daemon."""

    account: str
    name: str
    role_id: str
    """`AROA…`, 21 characters."""
    arn: str
    trust_policy: str
    max_session_seconds: int
    created_at: datetime
    policies: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}


class AccessKey(msgspec.Struct, frozen=True, dict=True):
    """A long-term credential of a user. The secret is sealed by a service key in the token."""

    access_key_id: str
    """`AKIA…`, 20 characters."""
    user: User
    sealed_secret: bytes
    status: AccessKeyStatus
    created_at: datetime

    @cached_property
    def caller(self) -> Caller:
        """The caller whose requests this key signs. It is the same object for as long as the store returns this one."""
        user = self.user
        return Caller(
            principal_type=PrincipalType.USER,
            arn=user.arn,
            account=user.account,
            principal_id=user.user_id,
            access_key_id=self.access_key_id,
            user_name=user.name,
            tags=user.tags,
            identity_policies=tuple(user.policies.values()),
        )
