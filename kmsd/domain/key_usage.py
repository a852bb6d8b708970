"""The last use of a key."""

from __future__ import annotations

from datetime import datetime

import msgspec


class KeyUse(msgspec.Struct, frozen=True):
    """A successful cryptographic operation with a key, as the audit trail records it."""

    key_id: str
    operation: str
    used_at: datetime
    """Start of the call, in whole seconds."""
    event_id: str
    """`eventID` of the audit record."""
    request_id: str
