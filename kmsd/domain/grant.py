"""Grants: permissions on one key for one principal, given by a principal that has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidGrantIdException

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

GRANT_OPERATIONS = (
    *("Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"),
    *("Sign", "Verify", "GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey", "GenerateDataKeyPair"),
    *("GenerateDataKeyPairWithoutPlaintext", "GenerateMac", "VerifyMac", "DeriveSharedSecret"),
    *("Encapsulate", "Decapsulate"),
)
"""AWS's enumeration, complete and in its order. Which of them fit a key follows from the declared operations."""


class Grant(msgspec.Struct, frozen=True):
    """A grant. At most one of the two constraints is set; if both are None there is no constraint."""

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
    """The request's context must CONTAIN every pair of this, and may have more. (The API reference states the reverse.)
    """
    issuing_account: str
    """Account under which the grant was issued, 12 digits."""
    issuing_principal: str
    """ARN of the principal that called CreateGrant."""
    created_at: datetime

    @property
    def terms(self) -> tuple[object, ...]:
        """Parameters of its CreateGrant request: equal for requests with identical parameters."""
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
        """True if the grant's constraint admits a cryptographic operation with this encryption context."""
        if self.encryption_context_equals is not None:
            return dict(context) == dict(self.encryption_context_equals)
        if self.encryption_context_subset is not None:
            return all(context.get(name) == value for name, value in self.encryption_context_subset.items())
        return True


_GRANT_ID = re.compile(r"[0-9a-f]{64}")


def check_grant_id(text: str) -> None:
    """Check the form of a grant id. Raises InvalidGrantIdException."""
    if not _GRANT_ID.fullmatch(text):
        raise InvalidGrantIdException(f"Invalid grant ID {text}")
