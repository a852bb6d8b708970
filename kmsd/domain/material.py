"""What key material is: the objects in the token that stand behind a key."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from datetime import datetime


class Algorithm(IntEnum):
    """How a blob is sealed. The number stands in every blob: append only, never reuse one (docs/ciphertext.md)."""

    XAES_256_GCM = 1
    """C2SP XAES-256-GCM, 24-byte nonce; the token derives the message key."""
    AES_256_GCM = 2
    """NIST SP 800-38D AES-256-GCM, 12-byte nonce; for tokens that cannot derive."""

    @property
    def nonce_length(self) -> int:
        """Bytes of nonce that precede the ciphertext."""
        return 24 if self is Algorithm.XAES_256_GCM else 12


TAG_LENGTH = 16
"""Bytes of the GCM tag that ends every sealed text."""


class MaterialStatus(StrEnum):
    """Where a material stands between store and token."""

    CREATING = "creating"
    READY = "ready"
    MISSING = "missing"
    """Was ready, and reconcile did not find its object in a token that is well: an alarm, and nothing is deleted."""
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class RotationType(StrEnum):
    """`RotationsListEntry.RotationType`."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


class TokenName(StrEnum):
    """Which of the daemon's tokens holds an object."""

    MAIN = "main"
    IMPORT = "import"
    """A second token that unwraps what the main token cannot; it holds wrapping keys and nothing else."""


class Material(msgspec.Struct, frozen=True):
    """One generation of a key: an AES-256 object in the token, found by `material_id` (its CKA_ID)."""

    material_id: bytes
    """16 random bytes; CKA_ID of the object."""
    algorithm: Algorithm
    status: MaterialStatus
    created_at: datetime
    rotation_type: RotationType | None = None
    """How it came to replace the one before; None: it is the first."""
    token: TokenName = TokenName.MAIN
    """The token that holds the object."""

    @property
    def key_material_id(self) -> str:
        """The `KeyMaterialId` of the API."""
        return key_material_id(self.material_id)


@lru_cache(maxsize=4096)
def key_material_id(material_id: bytes) -> str:
    """The `KeyMaterialId` of the API: 64 hexadecimal characters that tell nothing of the material."""
    return sha256(b"kmsd KeyMaterialId" + material_id).hexdigest()
