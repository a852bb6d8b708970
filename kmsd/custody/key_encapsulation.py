"""Key encapsulation by ML-KEM (FIPS 203), in the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.custody import key_material
from kmsd.domain.key_spec import KeySpec
from kmsd.errors import InvalidCiphertextException

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kmsd.domain.key import Key
    from kmsd.ports import Tokens

CIPHERTEXT_BYTES: Mapping[KeySpec, int] = {
    KeySpec.ML_KEM_512: 768,
    KeySpec.ML_KEM_768: 1088,
    KeySpec.ML_KEM_1024: 1568,
}
"""FIPS 203, table 3."""


async def encapsulate(tokens: Tokens, key: Key, now: datetime) -> tuple[bytes, bytes]:
    """Return a fresh secret and its ciphertext. Raises KeyUnavailableException, and the token's errors."""
    material = key_material.current(key, now)
    return await tokens.of(material).encapsulate(material.material_id)


async def decapsulate(tokens: Tokens, key: Key, now: datetime, ciphertext: bytes) -> bytes:
    """Return the secret of a ciphertext. Raises InvalidCiphertextException for a wrong length, and as `encapsulate`."""
    if len(ciphertext) != CIPHERTEXT_BYTES[key.spec]:
        raise InvalidCiphertextException(detail=f"a ciphertext of {key.spec} has {CIPHERTEXT_BYTES[key.spec]} bytes")
    material = key_material.current(key, now)
    return await tokens.of(material).decapsulate(material.reference, ciphertext)
