"""Domain keys: keys of the token that wrap key material."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.material import TokenName

if TYPE_CHECKING:
    from datetime import datetime


class DomainKeyState(StrEnum):
    """Use of a domain key. `kmsd domain-key rotate` moves it on; nothing moves it back."""

    NEXT = "next"
    """Waits for its turn: wraps nothing yet."""
    CURRENT = "current"
    """Wraps new material. A token has at most one."""
    RETIRING = "retiring"
    """Unwraps; its material is being rewrapped under the current one."""
    DESTROYED = "destroyed"
    """Is no longer in the token: what it wrapped cannot be opened any more."""


class DomainKey(msgspec.Struct, frozen=True):
    """The store's row of a domain key."""

    domain_key_id: bytes
    """CKA_ID in the token, 16 random bytes."""
    token: TokenName
    state: DomainKeyState
    binding_key: bytes
    """Key of the MACs that bind material to its identity, wrapped under the domain key."""
    created_at: datetime
    changed_at: datetime
    """Last change of the state; of a retiring key, the time at which its last material was rewrapped or deleted."""
    is_missing: bool = False
    """True if reconcile did not find it in the healthy token of any node: its keys are unavailable."""

    def is_needed(self, materials: int) -> bool:
        """True if, with so much material under it, some cannot be opened or made without it."""
        return materials > 0 or self.state is DomainKeyState.CURRENT
