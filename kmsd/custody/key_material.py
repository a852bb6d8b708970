"""Key material generated in the token."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import token_objects
from kmsd.domain.material import Material, MaterialStatus
from kmsd.ports import Store, Token


async def generate(store: Store, token: Token, key_id: str, now: datetime, created: list[bytes]) -> Material:
    """A new material for a key: made in the token under an intent, durable, and not yet promised to anybody.

    `created` is told of the object before it can exist, so that whoever called can undo it. The caller makes it
    `ready` with `objects.promise` in the transaction that gives it to the key.
    """
    algorithm = token_objects.algorithm_for(token)
    object_id = await token_objects.record_intent(store, f"key:{key_id}", now)
    created.append(object_id)
    await token.generate_key(object_id, algorithm)
    return Material(object_id, algorithm, MaterialStatus.READY, now)
