"""Key material: the token objects of a key."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from datetime import datetime


class Algorithm(IntEnum):
    """Encryption algorithm of a blob. Every blob contains the number: append only, never reuse (docs/ciphertext.md)."""

    XAES_256_GCM = 1
    """C2SP XAES-256-GCM, 24-byte nonce; the token derives the message key."""
    AES_256_GCM = 2
    """NIST SP 800-38D AES-256-GCM, 12-byte nonce; for tokens that cannot derive."""

    @property
    def nonce_length(self) -> int:
        """Bytes of nonce that precede the ciphertext."""
        return 24 if self is Algorithm.XAES_256_GCM else 12


TAG_LENGTH = 16
"""Bytes of the GCM tag at the end of every ciphertext."""


class MaterialStatus(StrEnum):
    """Status of a token object."""

    CREATING = "creating"
    READY = "ready"
    MISSING = "missing"
    """Was ready, but reconcile did not find the object in a healthy token. Raises an alarm; nothing is deleted."""
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class RotationType(StrEnum):
    """`RotationsListEntry.RotationType`."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


class TokenName(str):
    """Name of one of the daemon's tokens, as the store has it."""

    MAIN: ClassVar[TokenName]
    """`[token]`: holds the daemon's own keys, and every key that no further token serves."""
    IMPORT: ClassVar[TokenName]
    """`[import_token]`: unwraps what the main token cannot. It holds wrapping keys and nothing else."""

    __slots__ = ()


TokenName.MAIN = TokenName("main")
TokenName.IMPORT = TokenName("import")


class Material(msgspec.Struct, frozen=True):
    """One generation of a key: an object or key pair in the token, found by `material_id` (its CKA_ID)."""

    material_id: bytes
    """16 random bytes; CKA_ID of the object."""
    algorithm: Algorithm | None
    """The algorithm of its blobs; None for a key that encrypts no blobs (asymmetric and HMAC keys)."""
    status: MaterialStatus
    created_at: datetime
    rotation_type: RotationType | None = None
    """The rotation that created it; None for a key's first material."""
    token: TokenName = TokenName.MAIN
    """The token that holds the object."""
    public_key: bytes = b""
    """Public half of a key pair, DER SubjectPublicKeyInfo; empty for a secret key."""

    @property
    def key_material_id(self) -> str:
        """`KeyMaterialId` of the API."""
        return key_material_id(self.material_id)


@lru_cache(maxsize=4096)
def key_material_id(material_id: bytes) -> str:
    """Return the `KeyMaterialId` of the API: 64 hexadecimal characters that reveal nothing of the material."""
    return sha256(b"kmsd KeyMaterialId" + material_id).hexdigest()
