"""Import: how key material may be wrapped on its way in, and what is remembered of it."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kmsd.domain.material import Algorithm, TokenName


class WrappingAlgorithm(StrEnum):
    """`WrappingAlgorithm` of GetParametersForImport."""

    RSAES_PKCS1_V1_5 = "RSAES_PKCS1_V1_5"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSA_AES_KEY_WRAP_SHA_1 = "RSA_AES_KEY_WRAP_SHA_1"
    """An AES key by RSAES-OAEP, followed by the material by AES key wrap with padding (RFC 5649) under that key."""
    RSA_AES_KEY_WRAP_SHA_256 = "RSA_AES_KEY_WRAP_SHA_256"

    @property
    def has_integrity(self) -> bool:
        """Whether nobody can make a blob that unwraps without knowing what it holds.

        Of RSAES-PKCS1-v1_5 every answer that depends on what came out is an oracle (Bleichenbacher, 1998).
        """
        return self is not WrappingAlgorithm.RSAES_PKCS1_V1_5


WRAPPING_KEY_BITS: Mapping[str, int] = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
"""`WrappingKeySpec`."""
MATERIAL_BITS = 256
"""Of a symmetric key, no more and no less."""
PARAMETERS_LIFE = timedelta(hours=24)
""""These items are valid for 24 hours" (reference, GetParametersForImport)."""
MAX_FAILURES = 20
"""Failed imports with one import token; with the last of them its wrapping key is destroyed."""
MAX_OUTSTANDING = 1000
"""Import parameters of one key that are good at the same time."""


class WrappingKey(msgspec.Struct, frozen=True):
    """An RSA pair in a token: in stock, or given out with an import token."""

    object_id: bytes
    token: TokenName
    bits: int
    public_key: bytes
    """DER SubjectPublicKeyInfo."""
    created_at: datetime
    key_id: str | None = None
    """The key into which it may bring material; None: in stock."""
    expires_at: datetime | None = None
    failures: int = 0


class ImportedMaterial(msgspec.Struct, frozen=True):
    """What outlives the deletion and expiry of imported material, so that only the same can be imported again."""

    material_id: bytes
    """Of the material, and CKA_ID of its object whenever there is one: old blobs open again."""
    algorithm: Algorithm
    fingerprint: bytes
    """AES-CMAC under the material, computed in the token."""
    description: str = ""
    """`KeyMaterialDescription`."""
