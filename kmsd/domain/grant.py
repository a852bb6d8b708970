"""Grants: permissions on one key for one principal, given by a principal that holds them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidGrantIdException

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Grant(msgspec.Struct, frozen=True):
    """One grant. At most one of the two constraints is set; both None: no constraint."""

    grant_id: str
    """64 hexadecimal characters."""
    key_id: str
    name: str | None
    grantee_principal: str
    retiring_principal: str | None
    operations: tuple[str, ...]
    """Names without prefix, as in the API: `Encrypt`, `RetireGrant`, `CreateGrant`, `DescribeKey`, …"""
    encryption_context_equals: Mapping[str, str] | None
    encryption_context_subset: Mapping[str, str] | None
    """The request's context must CONTAIN every pair of this, and may have more. (The reference's sentence says the
    reverse.)"""
    issuing_account: str
    """12 digits: the account under which the grant was issued."""
    issuing_principal: str
    """ARN of the principal that called CreateGrant."""
    created_at: datetime

    @property
    def terms(self) -> tuple[object, ...]:
        """All that the request for it said: equal for requests with identical parameters."""
        return (
            self.key_id,
            self.name,
            self.grantee_principal,
            self.retiring_principal,
            frozenset(self.operations),
            self.encryption_context_equals,
            self.encryption_context_subset,
            self.issuing_principal,
        )

    def admits_context(self, context: Mapping[str, str]) -> bool:
        """Whether a cryptographic operation with this encryption context is within the grant's constraint."""
        if self.encryption_context_equals is not None:
            return dict(context) == dict(self.encryption_context_equals)
        if self.encryption_context_subset is not None:
            return all(context.get(name) == value for name, value in self.encryption_context_subset.items())
        return True


_GRANT_ID = re.compile(r"[0-9a-f]{64}")


def check_grant_id(text: str) -> None:
    """Raises InvalidGrantIdException for what cannot be the id of any grant."""
    if not _GRANT_ID.fullmatch(text):
        raise InvalidGrantIdException(f"Invalid grant ID {text}")
