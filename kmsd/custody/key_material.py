"""Key material generated in the token."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import token_objects
from kmsd.domain.material import Material, MaterialStatus
from kmsd.ports import Store, Token


async def generate(store: Store, token: Token, key_id: str, now: datetime, created: list[bytes]) -> Material:
    """Generate key material in the token under an intent. On return it is durable and belongs to no key yet.

    The object id is appended to `created` before the object can exist, so that the caller can roll it back. The caller
    marks it `ready` (`token_objects.mark_ready`) in the transaction that adds it to the key.
    """
    algorithm = token_objects.algorithm_for(token)
    object_id = await token_objects.record_intent(store, f"key:{key_id}", now)
    created.append(object_id)
    await token.generate_key(object_id, algorithm)
    return Material(object_id, algorithm, MaterialStatus.READY, now)
