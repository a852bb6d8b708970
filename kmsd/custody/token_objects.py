"""Create and destroy token objects so that the store always has a row for them. Wrapped material has a row too.

Store and token share no transaction. Creation: the intent (`creating`) is committed, the object is created and durable,
then the transaction that uses the object sets `ready`. Destruction is the reverse: `destroying` is committed, the
object is destroyed and looked up again, then the row is deleted. `kmsd.jobs.reconcile` completes what a crash
interrupts.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from kmsd.domain.material import Algorithm, Material, MaterialStatus, TokenName
from kmsd.errors import UnsupportedOperationException
from kmsd.ports import Store, Token, TokenObject, Tokens, Transaction

IMPORTED = "imported:"
"""Prefix of the owner of imported material. Only its objects are recreated under the same id."""
PREFERRED = (Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM, Algorithm.AES_256_GCM_IV16)


def algorithm_for(token: Token) -> Algorithm:
    """Return the best algorithm verified on the token. Raises UnsupportedOperationException if there is none."""
    for algorithm in PREFERRED:
        if algorithm in token.capabilities.algorithms:
            return algorithm
    raise UnsupportedOperationException(
        "The token offers neither CKM_AES_ECB_ENCRYPT_DATA with CKM_AES_GCM nor CKM_AES_GCM."
    )


async def record_intent(
    store: Store, owner: str, now: datetime, *, object_id: bytes | None = None, token: TokenName = TokenName.MAIN
) -> bytes:
    """Commit an intent and return its object id: a new one, or `object_id`. Raises `StoreConflict` if the id exists."""
    object_id = object_id or secrets.token_bytes(16)
    async with store.write() as tx:
        await tx.insert_token_object(TokenObject(object_id, owner, MaterialStatus.CREATING, now, token))
    return object_id


async def mark_ready(transaction: Transaction, object_id: bytes) -> None:
    """Change the status from `creating` to `ready`, atomically with the rest of the transaction."""
    await transaction.set_object_status(object_id, MaterialStatus.CREATING, MaterialStatus.READY)


async def insert_wrapped(
    transaction: Transaction, material_id: bytes, owner: str, now: datetime, token: TokenName = TokenName.MAIN
) -> None:
    """Insert the row that wrapped material has in place of an object. Raises `StoreConflict` if the id exists."""
    row = TokenObject(material_id, owner, MaterialStatus.READY, now, token, is_wrapped=True)
    await transaction.insert_token_object(row)


async def mark_destroying(transaction: Transaction, material: Material) -> None:
    """Mark the material of a key for destruction. Every process then forgets its handles.

    The caller deletes the material's row, and then calls `delete_wrapped`.
    """
    # Wrapped material whose domain key is missing is shown as missing; its own row says ready.
    old = MaterialStatus.READY if material.wrapped is not None else material.status
    await transaction.set_object_status(material.material_id, old, MaterialStatus.DESTROYING)


async def delete_wrapped(transaction: Transaction, material: Material, now: datetime) -> None:
    """Delete wrapped material that is marked for destruction and belongs to no key. Does nothing for an object."""
    if material.wrapped is not None:
        await transaction.delete_token_object(material.material_id, MaterialStatus.DESTROYING)
        await transaction.note_emptied(material.wrapped.domain_key_id, now)


async def roll_back(store: Store, token: Token, object_id: bytes) -> None:
    """Undo an intent, and destroy the object if it was created. Does nothing if the object is in use (`ready`).

    The row is authoritative and is set to `destroying` first: a commit that was reported as failed may have succeeded.
    An object recreated for a `missing` row is destroyed; the row stays.
    """
    async with store.write() as tx:
        known = await tx.token_object(object_id)
        if known is not None and known.status is MaterialStatus.CREATING:
            await tx.set_object_status(object_id, MaterialStatus.CREATING, MaterialStatus.DESTROYING)
        elif known is not None and known.status is MaterialStatus.MISSING:
            await token.destroy(object_id)
    await destroy(store, token, object_id)


async def roll_back_new(store: Store, tokens: Tokens, created: list[bytes]) -> None:
    """Roll back the objects of a call that did not commit, each in its token. Those not reached stay in `created`."""
    while created:
        known = await (await store.read()).token_object(created[-1])
        await roll_back(store, tokens.main if known is None else tokens[known.token], created[-1])
        created.pop()


async def destroy(store: Store, token: Token, object_id: bytes) -> None:
    """Destroy an object whose row is `destroying` or that has no row, then delete the row. Idempotent.

    The token looks the object up again before it returns (SoftHSM drops the handle before the file). An object in
    another HSM is left: reconcile destroys it on a node of that HSM.
    """
    known = await (await store.read()).token_object(object_id)
    if known is not None and known.token.is_elsewhere:
        return
    if known is None or known.owner.startswith(IMPORTED):
        await _destroy_alone(store, token, object_id)
    elif known.status is MaterialStatus.DESTROYING:
        await token.destroy(object_id)
        async with store.write() as tx:
            if await tx.token_object(object_id) is not None:
                await tx.delete_token_object(object_id, MaterialStatus.DESTROYING)


async def _destroy_alone(store: Store, token: Token, object_id: bytes) -> None:
    """Destroy an object within one write transaction, so that no other process writes in the meantime.

    The same material may be recreated under the same id, but only after the row is deleted. A late caller then finds
    another row and does not destroy the recreated object.
    """
    async with store.write() as tx:
        known = await tx.token_object(object_id)
        if known is not None and known.status is not MaterialStatus.DESTROYING:
            return
        await token.destroy(object_id)
        if known is not None:
            await tx.delete_token_object(object_id, MaterialStatus.DESTROYING)
