"""Users, roles and access keys as the store holds them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

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


class AccessKey(msgspec.Struct, frozen=True):
    """A long-term credential of a user. The secret is sealed by a service key in the token."""

    access_key_id: str
    """`AKIA…`, 20 characters."""
    user: User
    sealed_secret: bytes
    status: AccessKeyStatus
    created_at: datetime
