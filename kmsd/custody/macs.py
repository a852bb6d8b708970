"""MACs: computed in the token, compared in the process.

The comparison takes the same time wherever the MACs differ. Tokens compare as they like, so C_Verify is not used.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from kmsd.custody import key_material

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.key import Key
    from kmsd.domain.key_spec import MacAlgorithm
    from kmsd.ports import Tokens


async def compute(tokens: Tokens, key: Key, now: datetime, algorithm: MacAlgorithm, message: bytes) -> bytes:
    """Return the MAC of `message`. Raises KeyUnavailableException, and the token's errors (`kmsd.ports`)."""
    material = key_material.current(key, now)
    return await tokens.of(material).mac(material.reference, algorithm, message)


def is_equal(computed: bytes, given: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(computed, given)
