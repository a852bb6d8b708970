"""Import of key material: wrapping algorithms, wrapping keys, and the stored record of imported material."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.key_spec import RSA_BITS, KeySpec, KeyUsage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kmsd.domain.material import Algorithm, KeyReference, TokenName, WrappedMaterial

KeyKind = tuple[KeySpec, KeyUsage]
"""Kind of a key's material."""


class WrappingAlgorithm(StrEnum):
    """`WrappingAlgorithm` of GetParametersForImport."""

    RSAES_PKCS1_V1_5 = "RSAES_PKCS1_V1_5"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSA_AES_KEY_WRAP_SHA_1 = "RSA_AES_KEY_WRAP_SHA_1"
    """An AES key wrapped by RSAES-OAEP, then the material wrapped under it by AES key wrap with padding (RFC 5649)."""
    RSA_AES_KEY_WRAP_SHA_256 = "RSA_AES_KEY_WRAP_SHA_256"

    @property
    def has_integrity(self) -> bool:
        """True if only someone who knows the content can create a blob that unwraps.

        With RSAES-PKCS1-v1_5, any response that depends on the unwrapped content is an oracle (Bleichenbacher, 1998).
        """
        return self is not WrappingAlgorithm.RSAES_PKCS1_V1_5

    @property
    def is_hybrid(self) -> bool:
        """True if the RSA key wraps an AES key, and the AES key the material. Material may then be long."""
        return self.value.startswith("RSA_AES_KEY_WRAP")


WRAPPING_KEY_BITS: Mapping[str, int] = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
"""Bits of the RSA key by `WrappingKeySpec`."""
MATERIAL_BITS = 256
"""Bits of a symmetric key's material."""
TRANSPORT_OF_KEYS = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1
"""Algorithm for RSA, ECC and HMAC material that one token wraps for another."""
PARAMETERS_LIFE = timedelta(hours=24)
""""These items are valid for 24 hours" (reference, GetParametersForImport)."""
MAX_FAILURES = 20
"""Failed imports with one import token. The last one destroys its wrapping key."""
MAX_OUTSTANDING = 1000
"""Import parameters of one key that are valid at the same time."""


def can_wrap(algorithm: WrappingAlgorithm, bits: int, spec: KeySpec) -> bool:
    """Return whether a wrapping key of this length takes the material of a key spec by this algorithm.

    "To import an RSA private key, you must use an RSA_AES wrapping algorithm"; no direct wrapping of ECC_NIST_P521
    material with RSA_2048 (reference, GetParametersForImport). RSAES_PKCS1_V1_5 is older than all but symmetric keys.
    """
    if spec is KeySpec.SYMMETRIC_DEFAULT or algorithm.is_hybrid:
        return True
    if spec in RSA_BITS or not algorithm.has_integrity:
        return False
    return spec is not KeySpec.ECC_NIST_P521 or bits > RSA_BITS[KeySpec.RSA_2048]


class WrappingKey(msgspec.Struct, frozen=True):
    """An RSA key pair in a token: in the pool, or assigned to a key with an import token."""

    object_id: bytes
    token: TokenName
    bits: int
    public_key: bytes
    """DER SubjectPublicKeyInfo."""
    created_at: datetime
    key_id: str | None = None
    """The key into which it imports material; None: in the pool."""
    expires_at: datetime | None = None
    failures: int = 0
    wrapped: WrappedMaterial | None = None
    """None for a token object."""

    @property
    def reference(self) -> KeyReference:
        """The private key as its token finds it."""
        return self.wrapped or self.object_id


class KeyMaterialState(StrEnum):
    """`RotationsListEntry.KeyMaterialState`."""

    CURRENT = "CURRENT"
    """Encrypts and decrypts."""
    NON_CURRENT = "NON_CURRENT"
    """Decrypts."""
    PENDING_ROTATION = "PENDING_ROTATION"
    """Does neither before RotateKeyOnDemand. It may be deleted, and other material imported in its place."""


class ImportedMaterial(msgspec.Struct, frozen=True):
    """Record of imported material. It outlives deletion and expiry, so that only the same can be imported again."""

    material_id: bytes
    """Material id, and CKA_ID of the object whenever there is one. So old blobs decrypt again after a reimport."""
    algorithm: Algorithm | None
    """Algorithm of a symmetric key's blobs; None for the material of other keys."""
    fingerprint: bytes
    """16 bytes of a MAC under a secret, computed in the token; or 32 of a hash of the public key of a pair."""
    imported_at: datetime
    """Time of the first import."""
    state: KeyMaterialState = KeyMaterialState.CURRENT
    """A key has at most one material that is CURRENT, and one that is PENDING_ROTATION."""
    description: str = ""
    """`KeyMaterialDescription`."""
    valid_to: datetime | None = None
    """Time at which the object is destroyed; None if it does not expire, or if there is none."""
    rotated_at: datetime | None = None
    """Time of the rotation that made it current; None for the first material, and before the rotation."""

    @property
    def is_permanent(self) -> bool:
        """True once the key has used it. The key then works only while the token holds it."""
        return self.state is not KeyMaterialState.PENDING_ROTATION

    def is_expired(self, now: datetime) -> bool:
        """True from the instant `valid_to`, even before the job has destroyed the object."""
        return self.valid_to is not None and now >= self.valid_to
