"""The promises of the store about domain keys and wrapped material, on every adapter."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kmsd.custody import key_material, token_objects
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key import Key
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import MaterialStatus, TokenName
from kmsd.ports import Store, StoreConflict
from tests.contract.stores import Pair
from tests.support import domain_keys
from tests.support.domain_keys import ACCOUNT, KEY_ID
from tests.support.domain_keys import CREATED as NOW
from tests.support.stored_keys import a_domain_key, wrapped

LATER = NOW + timedelta(days=1)


async def a_key(store: Store, domain_key: DomainKey, key_id: str = KEY_ID) -> Key:
    """A key with wrapped material, in the store."""
    material = wrapped(domain_key, key_id)
    key = domain_keys.a_key(key_id=key_id, current_material=material)
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        await transaction.insert_key(key)
        await key_material.add(transaction, key_id, material)
    return key


async def found(store: Store) -> Key:
    """The key, as a new request reads it."""
    key = await (await store.read()).key(KEY_ID)
    assert key is not None
    return key


async def test_wrapped_material_is_read_back(stores: Pair) -> None:
    """With everything that its MAC covers, by both processes; it is no token object."""
    first, second = stores
    key = await a_key(first, await a_domain_key(first))
    assert (await found(first)).current_material == (await found(second)).current_material == key.current_material
    reader = await second.read()
    assert await reader.token_objects() == []
    assert key.current_material is not None
    row = await reader.token_object(key.current_material.material_id)
    assert row is not None
    assert (row.is_wrapped, row.status) == (True, MaterialStatus.READY)


async def test_one_current_domain_key(stores: Pair) -> None:
    """A token has at most one, and states change by compare-and-swap."""
    store, other = stores
    current = await a_domain_key(store)
    waiting = await a_domain_key(store, DomainKeyState.NEXT)
    with pytest.raises(StoreConflict):
        await a_domain_key(store)
    async with store.write() as transaction:
        await transaction.set_domain_key_state(
            current.domain_key_id, DomainKeyState.CURRENT, DomainKeyState.RETIRING, LATER
        )
        await transaction.set_domain_key_state(
            waiting.domain_key_id, DomainKeyState.NEXT, DomainKeyState.CURRENT, LATER
        )
    reader = await other.read()
    assert await reader.current_domain_key(TokenName.MAIN) == replace(
        waiting, state=DomainKeyState.CURRENT, changed_at=LATER
    )
    with pytest.raises(StoreConflict):
        async with store.write() as transaction:
            await transaction.set_domain_key_state(
                current.domain_key_id, DomainKeyState.CURRENT, DomainKeyState.RETIRING, LATER
            )


async def test_a_missing_domain_key_makes_its_keys_unavailable(stores: Pair) -> None:
    """By one row, in every process, and back again."""
    first, second = stores
    domain_key = await a_domain_key(first)
    await a_key(first, domain_key)
    assert (await found(second)).state_at(NOW) is KeyState.ENABLED
    async with first.write() as transaction:
        await transaction.set_domain_key_held(domain_key.domain_key_id, is_held=False)
    assert (await found(second)).state_at(NOW) is KeyState.UNAVAILABLE
    async with first.write() as transaction:
        await transaction.set_domain_key_held(domain_key.domain_key_id, is_held=True)
    assert (await found(second)).state_at(NOW) is KeyState.ENABLED


async def test_material_moves_to_another_domain_key(stores: Pair) -> None:
    """Only from what was read; the counts follow, and the old domain key notes when its last material left."""
    first, second = stores
    old = await a_domain_key(first, DomainKeyState.RETIRING)
    new = await a_domain_key(first)
    await a_key(first, old)
    [before] = await (await second.read()).wrapped_under(old.domain_key_id, b"", 10)
    assert await (await second.read()).wrapped_under(old.domain_key_id, before.material_id, 10) == []
    after = replace(
        before, domain_key_id=new.domain_key_id, binding_key=new.binding_key, content=secrets.token_bytes(40)
    )
    async with first.write() as transaction:
        await transaction.replace_wrapped(before, after, LATER)
    with pytest.raises(StoreConflict):
        async with second.write() as transaction:
            await transaction.replace_wrapped(before, after, LATER)
    reader = await second.read()
    current = (await found(second)).current_material
    assert current is not None
    assert current.wrapped == after
    assert await reader.wrapped_counts() == {old.domain_key_id: 0, new.domain_key_id: 1}
    assert {one.domain_key_id: one.changed_at for one in await reader.domain_keys()} == {
        old.domain_key_id: LATER,
        new.domain_key_id: NOW,
    }


async def test_the_time_of_the_last_deletion(stores: Pair) -> None:
    """A domain key notes when its last material was deleted, and not when another was."""
    store, _ = stores
    domain_key = await a_domain_key(store, DomainKeyState.RETIRING)
    key, stays = await a_key(store, domain_key), wrapped(domain_key, KEY_ID)
    async with store.write() as transaction:
        await key_material.add(transaction, KEY_ID, stays)
    assert key.current_material is not None
    for material, seen in ((key.current_material, NOW), (stays, LATER)):
        async with store.write() as transaction:
            await token_objects.mark_destroying(transaction, material)
            await transaction.delete_material(material.material_id)
            await token_objects.delete_wrapped(transaction, material, LATER)
        [row] = await (await store.read()).domain_keys()
        assert row.changed_at == seen


async def test_nothing_comes_under_a_destroyed_domain_key(stores: Pair) -> None:
    """Material that was wrapped before the domain key was destroyed, and committed afterwards, would be lost."""
    store, _ = stores
    destroyed, current = await a_domain_key(store, DomainKeyState.DESTROYED), await a_domain_key(store)
    with pytest.raises(StoreConflict):
        await a_key(store, destroyed)
    await a_key(store, current)
    [before] = await (await store.read()).wrapped_under(current.domain_key_id, b"", 10)
    with pytest.raises(StoreConflict):
        async with store.write() as transaction:
            await transaction.replace_wrapped(before, replace(before, domain_key_id=destroyed.domain_key_id), NOW)


async def test_deleted_material_stays_deleted(stores: Pair) -> None:
    """Every process is told; a row that comes back is not read, unless the material is added as new."""
    first, second = stores
    domain_key = await a_domain_key(first)
    key = await a_key(first, domain_key)
    material = key.current_material
    assert material is not None
    told: list[bytes] = []
    second.on_object_destroying(told.append)
    await second.read()
    async with first.write() as transaction:
        await token_objects.mark_destroying(transaction, material)
        await transaction.delete_material(material.material_id)
        await token_objects.delete_wrapped(transaction, material, NOW)
    await second.read()
    assert told == [material.material_id]
    reader = await first.read()
    assert await reader.token_object(material.material_id) is None
    assert await reader.wrapped_counts() == {domain_key.domain_key_id: 0}
    assert (await found(second)).materials == {}
    async with first.write() as transaction:
        await key_material.add(transaction, KEY_ID, material)
    assert set((await found(second)).materials) == {material.material_id}
