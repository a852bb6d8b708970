"""What the store promises of wrapping keys, of imported material, and of who wrote an intent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.custody import import_parameters, token_objects
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_import import ImportedMaterial, KeyMaterialState, WrappingKey
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Algorithm, MaterialStatus, TokenName
from kmsd.ports import DueKind, Store, StoreConflict
from tests.contract.stores import Pair

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY_ID = "00000000-0000-0000-0000-000000000001"
CURRENT, NON_CURRENT, PENDING = (
    KeyMaterialState.CURRENT,
    KeyMaterialState.NON_CURRENT,
    KeyMaterialState.PENDING_ROTATION,
)


@pytest.fixture
async def store(stores: Pair) -> Store:
    """An empty database, of each kind."""
    return stores[0]


async def stocked(store: Store, token: TokenName = TokenName.IMPORT) -> WrappingKey:
    """A wrapping key that nobody has."""
    object_id = await token_objects.record_intent(store, "import:RSA_2048", NOW, token=token)
    made = WrappingKey(object_id, token, 2048, b"public", NOW)
    async with store.write() as transaction:
        await token_objects.mark_ready(transaction, object_id)
        await transaction.insert_wrapping_key(made)
    return made


async def test_a_wrapping_key_is_given_out_once(store: Store) -> None:
    """And is then as it was given out."""
    made = await stocked(store)
    assert await (await store.read()).wrapping_keys() == [made]
    until = NOW + timedelta(hours=24)
    async with store.write() as transaction:
        await transaction.assign_wrapping_key(made.object_id, KEY_ID, until)
    given = await (await store.read()).wrapping_key(made.object_id)
    assert given is not None
    assert (given.key_id, given.expires_at, given.token, given.failures) == (KEY_ID, until, TokenName.IMPORT, 0)
    with pytest.raises(StoreConflict):
        async with store.write() as transaction:
            await transaction.assign_wrapping_key(made.object_id, KEY_ID, until)


async def test_failures_are_counted_until_it_is_doomed(store: Store) -> None:
    """From then on nobody finds it."""
    made = await stocked(store)
    for count in (1, 2):
        async with store.write() as transaction:
            assert await transaction.count_import_failure(made.object_id) == count
    async with store.write() as transaction:
        await import_parameters.mark_destroying(transaction, made.object_id)
    reader = await store.read()
    assert await reader.wrapping_key(made.object_id) is None
    row = await reader.token_object(made.object_id)
    assert row is not None
    assert (row.status, row.token) == (MaterialStatus.DESTROYING, TokenName.IMPORT)
    for act in ("count_import_failure", "delete_wrapping_key"):
        with pytest.raises(StoreConflict):
            async with store.write() as transaction:
                await getattr(transaction, act)(made.object_id)


async def external_key(store: Store) -> None:
    """A key that awaits its material."""
    key = Key(
        key_id=KEY_ID,
        account="000000000000",
        arn="arn",
        description="",
        origin=Origin.EXTERNAL,
        state=KeyState.PENDING_IMPORT,
        policy="{}",
        created_at=NOW,
        current_material=None,
    )
    async with store.write() as transaction:
        await transaction.insert_account(key.account, NOW)
        await transaction.insert_key(key)


def material(letter: str, state: KeyMaterialState, **members: Any) -> ImportedMaterial:
    """The record of a material, with id and fingerprint of this letter; later letters were imported later."""
    at = NOW + timedelta(hours=ord(letter))
    return ImportedMaterial(letter.encode() * 16, Algorithm.XAES_256_GCM, letter.encode() * 16, at, state, **members)


async def put(store: Store, *records: ImportedMaterial) -> None:
    """Store records, in one transaction."""
    async with store.write() as transaction:
        for record in records:
            await transaction.put_imported_material(KEY_ID, record)


async def test_imported_material_never_becomes_other(store: Store) -> None:
    """State, description and times change; id, algorithm and fingerprint do not. The records go with the key."""
    await external_key(store)
    first = material("f", CURRENT)
    await put(store, first)
    assert await (await store.read()).imported_materials(KEY_ID) == [first]
    changed = replace(
        first, state=NON_CURRENT, description="from the vault", valid_to=NOW, rotated_at=NOW + timedelta(days=1)
    )
    await put(store, changed)
    for other in (
        replace(first, material_id=b"o" * 16),
        replace(first, fingerprint=b"o" * 16),
        replace(first, algorithm=Algorithm.AES_256_GCM),
    ):
        with pytest.raises(StoreConflict):
            await put(store, other)
    assert await (await store.read()).imported_materials(KEY_ID) == [changed]
    async with store.write() as transaction:
        await transaction.delete_key(KEY_ID)
    assert await (await store.read()).imported_materials(KEY_ID) == []


async def test_the_record_of_a_pair(store: Store) -> None:
    """It has no algorithm, and a longer fingerprint; it does not become that of a symmetric key."""
    await external_key(store)
    record = replace(material("f", CURRENT), algorithm=None, fingerprint=b"f" * 32)
    await put(store, record)
    expiring = replace(record, valid_to=NOW)
    await put(store, expiring)
    with pytest.raises(StoreConflict):
        await put(store, replace(record, algorithm=Algorithm.XAES_256_GCM))
    assert await (await store.read()).imported_materials(KEY_ID) == [expiring]


async def test_a_key_has_one_current_and_one_pending_material(store: Store) -> None:
    """And any number of earlier ones. They are listed in the order of their first import."""
    await external_key(store)
    old, now, later = material("a", NON_CURRENT), material("b", CURRENT), material("c", PENDING)
    await put(store, later, now, old)
    for second in (material("d", CURRENT), material("d", PENDING)):
        with pytest.raises(StoreConflict):
            await put(store, second)
    assert await (await store.read()).imported_materials(KEY_ID) == [old, now, later]
    rotated = [replace(now, state=NON_CURRENT), replace(later, state=CURRENT, rotated_at=NOW)]
    await put(store, *rotated)
    assert await (await store.read()).imported_materials(KEY_ID) == [old, *rotated]
    async with store.write() as transaction:
        await transaction.delete_imported_material(old.material_id)
    with pytest.raises(StoreConflict):
        async with store.write() as transaction:
            await transaction.delete_imported_material(old.material_id)
    assert await (await store.read()).imported_materials(KEY_ID) == rotated


async def test_each_material_is_due_for_itself(store: Store) -> None:
    """A key is named once, however many of its materials are due; what never expires is not due."""
    await external_key(store)
    hour = timedelta(hours=1)
    await put(store, material("a", NON_CURRENT, valid_to=NOW + hour), material("b", CURRENT))
    await put(store, material("c", PENDING, valid_to=NOW + 2 * hour))
    reader = await store.read()
    assert await reader.next_due(DueKind.EXPIRY) == NOW + hour
    assert await reader.keys_due(DueKind.EXPIRY, NOW, 9) == []
    for hours in (1, 2):
        assert await reader.keys_due(DueKind.EXPIRY, NOW + hours * hour, 9) == [KEY_ID]


async def test_an_intent_is_orphaned_when_its_process_has_ended(tmp_path: Path) -> None:
    """Neither the own nor that of another that is alive; closing stands here for the end of a process."""
    connection.create(tmp_path / "kmsd.sqlite")
    store, other = SqliteStore(tmp_path / "kmsd.sqlite"), SqliteStore(tmp_path / "kmsd.sqlite")
    own, foreign = (
        await token_objects.record_intent(store, "key:x", NOW),
        await token_objects.record_intent(other, "key:x", NOW),
    )

    async def orphaned() -> tuple[bool, bool]:
        reader = await store.read()
        rows = {row.object_id: row.owner_is_dead for row in await reader.token_objects()}
        one = await reader.token_object(foreign)
        assert one is not None
        assert one.owner_is_dead == rows[foreign]
        return rows[own], rows[foreign]

    assert await orphaned() == (False, False)
    await other.close()
    assert await orphaned() == (False, True)


async def test_a_known_id_cannot_be_intended(store: Store) -> None:
    """Until its row is gone."""
    object_id = await token_objects.record_intent(store, "imported:x", NOW)
    with pytest.raises(StoreConflict):
        await token_objects.record_intent(store, "imported:x", NOW, object_id=object_id)
    async with store.write() as transaction:
        await transaction.delete_token_object(object_id, MaterialStatus.CREATING)
    assert await token_objects.record_intent(store, "imported:x", NOW, object_id=object_id) == object_id
