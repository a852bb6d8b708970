"""A key of the domain, for tests that need no store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from kmsd.domain.key import Key, Origin
from kmsd.domain.key_state import KeyState

KEY_ID = "11111111-2222-4333-8444-555555555555"
ACCOUNT = "000000000000"
CREATED = datetime(2026, 11, 22, tzinfo=UTC)


def a_key(**members: Any) -> Key:
    """An enabled symmetric key without material; `members` replace its own."""
    key = Key(
        key_id=KEY_ID,
        account=ACCOUNT,
        arn=f"arn:aws:kms:us-local-1:{ACCOUNT}:key/{KEY_ID}",
        description="",
        origin=Origin.AWS_KMS,
        state=KeyState.ENABLED,
        policy="{}",
        created_at=CREATED,
        current_material=None,
    )
    return replace(key, **members)
