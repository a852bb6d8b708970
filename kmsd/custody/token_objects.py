"""Making and destroying objects in the token so that the store always knows of them.

Store and token share no transaction. An object is made like this: intent (`creating`) committed, object
made and durable, then `ready` in the transaction that promises it to somebody. It is destroyed the other
way round: `destroying` committed, object destroyed and looked up again, then the row. Whatever is left
in between is settled by `kmsd.jobs.reconcile`.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from kmsd.domain.material import Algorithm, MaterialStatus, TokenName
from kmsd.errors import UnsupportedOperationException
from kmsd.ports import Store, Token, TokenObject, Transaction

IMPORTED = "imported:"
"""What the owner of imported material begins with. Its objects alone are made anew under the same id."""
PREFERRED = (Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM)


def algorithm_for(token: Token) -> Algorithm:
    """The best algorithm that the token proved. Raises UnsupportedOperationException if it has none."""
    for algorithm in PREFERRED:
        if algorithm in token.capabilities.algorithms:
            return algorithm
    raise UnsupportedOperationException(
        "The token offers neither CKM_AES_ECB_ENCRYPT_DATA with CKM_AES_GCM nor CKM_AES_GCM."
    )


async def record_intent(
    store: Store, owner: str, now: datetime, *, object_id: bytes | None = None, token: TokenName = TokenName.MAIN
) -> bytes:
    """A new object id, or the one that is given, with its intent committed. Raises `StoreConflict` if it is known."""
    object_id = object_id or secrets.token_bytes(16)
    async with store.write() as tx:
        await tx.insert_token_object(TokenObject(object_id, owner, MaterialStatus.CREATING, now, token))
    return object_id


async def mark_ready(transaction: Transaction, object_id: bytes) -> None:
    """`creating` becomes `ready`, together with whatever else the transaction says."""
    await transaction.set_object_status(object_id, MaterialStatus.CREATING, MaterialStatus.READY)


async def roll_back(store: Store, token: Token, object_id: bytes) -> None:
    """Undo an intent, and the object if it was made: nobody was promised it. If somebody was, nothing is done.

    The row decides, and is doomed first: a commit may have worked although it was reported to have failed. What is made
    anew for a `missing` one is destroyed, and its row stays.
    """
    async with store.write() as tx:
        known = await tx.token_object(object_id)
        if known is not None and known.status is MaterialStatus.CREATING:
            await tx.set_object_status(object_id, MaterialStatus.CREATING, MaterialStatus.DESTROYING)
        elif known is not None and known.status is MaterialStatus.MISSING:
            await token.destroy(object_id)
    await destroy(store, token, object_id)


async def destroy(store: Store, token: Token, object_id: bytes) -> None:
    """Destroy an object whose row says `destroying` or that has none, then drop the row. Idempotent.

    The token looks the object up again before it answers (SoftHSM drops the handle before the file).
    """
    known = await (await store.read()).token_object(object_id)
    if known is None or known.owner.startswith(IMPORTED):
        await _destroy_alone(store, token, object_id)
    elif known.status is MaterialStatus.DESTROYING:
        await token.destroy(object_id)
        async with store.write() as tx:
            if await tx.token_object(object_id) is not None:
                await tx.delete_token_object(object_id, MaterialStatus.DESTROYING)


async def _destroy_alone(store: Store, token: Token, object_id: bytes) -> None:
    """As above, while nobody else writes.

    The same material may be made anew under the same id, but not before the row is gone; and whoever comes late finds
    another row, and does not destroy what was made anew.
    """
    async with store.write() as tx:
        known = await tx.token_object(object_id)
        if known is not None and known.status is not MaterialStatus.DESTROYING:
            return
        await token.destroy(object_id)
        if known is not None:
            await tx.delete_token_object(object_id, MaterialStatus.DESTROYING)
