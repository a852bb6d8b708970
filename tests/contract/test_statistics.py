"""The numbers of keys that the metrics show are those that `Key.state_at` and `Key.exists_at` give, key by key."""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kmsd.adapters.postgres.database import PostgresDatabase
from kmsd.adapters.sql.statistics import MAX_COUNTED, Statistics
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.custody import key_material
from kmsd.domain.domain_key import DomainKeyState
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_import import ImportedMaterial
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Algorithm, Material, MaterialStatus
from kmsd.ports import Store, TokenObject
from tests.support.domain_keys import ACCOUNT, a_key
from tests.support.domain_keys import CREATED as NOW
from tests.support.postgres import cluster
from tests.support.stored_keys import a_domain_key, wrapped

HOUR = timedelta(hours=1)


def an_object() -> Material:
    """Material that is a token object."""
    return Material(secrets.token_bytes(16), Algorithm.XAES_256_GCM, MaterialStatus.READY, NOW)


async def add(store: Store, material: Material | None = None, **members: Any) -> Key:
    """Add a key in the state that `members` give it; imported material expires with the key."""
    made = material or an_object()
    key = a_key(key_id=secrets.token_hex(18), current_material=made, **members)
    async with store.write() as transaction:
        await transaction.insert_key(key)
        if made.wrapped is None:
            row = TokenObject(made.material_id, f"key:{key.key_id}", MaterialStatus.CREATING, NOW)
            await transaction.insert_token_object(row)
        await key_material.add(transaction, key.key_id, made)
        if key.valid_to is not None:
            imported = ImportedMaterial(made.material_id, made.algorithm, bytes(16), NOW, valid_to=key.valid_to)
            await transaction.put_imported_material(key.key_id, imported)
    return key


async def lose(store: Store, material: Material | None) -> None:
    """Record that the token does not hold the material."""
    assert material is not None
    async with store.write() as transaction:
        await transaction.set_object_status(material.material_id, MaterialStatus.READY, MaterialStatus.MISSING)


async def fill(store: Store) -> list[str]:
    """Add keys in all states, each due or lost and not. Return their ids."""
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
    current, lost = await a_domain_key(store), await a_domain_key(store, DomainKeyState.RETIRING)
    keys = [
        await add(store),
        await add(store, wrapped(current, secrets.token_hex(18))),
        await add(store, state=KeyState.DISABLED),
        await add(store, state=KeyState.PENDING_DELETION, deletion_at=NOW + HOUR),
        await add(store, state=KeyState.PENDING_DELETION, deletion_at=NOW),
        await add(store, state=KeyState.PENDING_DELETION, deletion_at=NOW + HOUR, valid_to=NOW),
        await add(store, origin=Origin.EXTERNAL, valid_to=NOW),
        await add(store, origin=Origin.EXTERNAL, valid_to=NOW + HOUR),
        await add(store, origin=Origin.EXTERNAL, valid_to=NOW, state=KeyState.DISABLED),
        await add(store, wrapped(lost, secrets.token_hex(18))),
    ]
    expired_and_lost = [
        await add(store),
        await add(store, state=KeyState.DISABLED),
        await add(store, origin=Origin.EXTERNAL, valid_to=NOW),
        await add(store, wrapped(lost, secrets.token_hex(18))),
    ]
    for key in expired_and_lost:
        await lose(store, key.current_material)
    async with store.write() as transaction:
        await transaction.set_domain_key_held(lost.domain_key_id, is_held=False)
    return [key.key_id for key in [*keys, *expired_and_lost]]


async def shown(store: Store, ids: list[str]) -> dict[str, int]:
    """The states that clients see, each with its number of keys."""
    reader = await store.read()
    keys = [key for key_id in ids if (key := await reader.key(key_id)) is not None]
    return dict(Counter(key.state_at(NOW).value for key in keys if key.exists_at(NOW)))


async def compare(store: Store, read: Callable[[], Awaitable[Statistics]]) -> None:
    """What is counted is what clients see, also after a change of state."""
    ids = await fill(store)
    assert (await read()).keys == await shown(store, ids)
    key = await (await store.read()).key(ids[0])
    assert key is not None
    async with store.write() as transaction:
        await transaction.update_key(key, replace(key, state=KeyState.DISABLED))
    counted = await read()
    assert counted.keys == await shown(store, ids)
    assert counted.keys == {"Enabled": 2, "Disabled": 3, "PendingDeletion": 2, "PendingImport": 3, "Unavailable": 3}
    assert counted.wrapped == {"current": 1, "retiring": 2}
    assert counted.objects == {("main", "ready"): 8, ("main", "missing"): 3}
    assert counted.due == {"deletion": NOW.timestamp(), "expiry": NOW.timestamp()}
    assert counted.clock is None


MANY = f"UPDATE domain_key_count SET materials = {MAX_COUNTED + 1}"  # noqa: S608 (a number)
"""Makes too much material, under a domain key that is missing, for its keys to be counted one by one."""


def require_none_enabled(counted: Statistics) -> None:
    """The number of materials stands for that of keys; there are no more than the keys that are enabled."""
    assert "Enabled" not in counted.keys
    assert counted.keys["Unavailable"] == 5
    assert counted.keys["Disabled"] == 3


async def test_of_sqlite(tmp_path: Path) -> None:
    """A file."""
    database = SqliteDatabase(tmp_path / "kmsd.sqlite")
    await database.create()
    async with database.open() as store:
        await compare(store, lambda: database.statistics(NOW))
        with closing(sqlite3.connect(tmp_path / "kmsd.sqlite", isolation_level=None)) as other:
            other.execute(MANY)
        require_none_enabled(await database.statistics(NOW))


async def test_of_postgresql() -> None:
    """A server."""
    settings = cluster().database()
    database = PostgresDatabase(settings, "")
    await database.create()
    async with database.open() as store:
        await compare(store, lambda: database.statistics(NOW))
        cluster().run_sql(MANY, settings.url.database)
        require_none_enabled(await database.statistics(NOW))
