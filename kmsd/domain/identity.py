"""Accounts, users, roles and their credentials as the store holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class AccessKeyStatus(StrEnum):
    """IAM's words."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"


@dataclass(frozen=True, slots=True)
class User:
    """An IAM user of this daemon."""

    account: str
    name: str
    user_id: str
    """`AIDA…`, 21 characters."""
    arn: str
    created_at: datetime
    policies: Mapping[str, str] = field(default_factory=dict)
    """Inline identity policies: name to document."""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Role:
    """An IAM role of this daemon."""

    account: str
    name: str
    role_id: str
    """`AROA…`, 21 characters."""
    arn: str
    trust_policy: str
    max_session_seconds: int
    created_at: datetime
    policies: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A long-term credential of a user. The secret is sealed by a service key in the token."""

    access_key_id: str
    """`AKIA…`, 20 characters."""
    user: User
    sealed_secret: bytes
    status: AccessKeyStatus
    created_at: datetime
