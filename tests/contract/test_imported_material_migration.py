"""A database of schema version 8, which knows one imported material of a key, in this release."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmsd.adapters.sql.row_mapping import micros
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.domain.key_import import ImportedMaterial, KeyMaterialState
from kmsd.domain.material import Algorithm
from kmsd.ports import DueKind

CREATED = datetime(2026, 11, 22, 12, tzinfo=UTC)
IMPORTED = CREATED + timedelta(hours=1)
EXPIRES = CREATED + timedelta(days=30)
IMPORTED_KEY, EXPIRING_KEY, EMPTIED_KEY, NEW_KEY = (f"{number:08d}-0000-0000-0000-000000000000" for number in range(4))


def earlier_database(path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty database as the release of this schema version made it."""
    known = [step for step in connection.migrations() if step[0] <= version]
    with monkeypatch.context() as patch:
        patch.setattr(connection, "migrations", lambda: known)
        connection.create(path)


def insert_key(database: sqlite3.Connection, key_id: str, material: bytes | None, valid_to: datetime | None) -> None:
    """A key with origin EXTERNAL that has this material now."""
    database.execute(
        "INSERT INTO key (key_id, account, arn, description, origin, state, policy, created_at, current_material, "
        "valid_to, expiration_model) VALUES (?, '000000000000', 'arn', '', 'EXTERNAL', ?, '{}', ?, ?, ?, ?)",
        (
            key_id,
            "PendingImport" if material is None else "Enabled",
            micros(CREATED),
            material,
            micros(valid_to),
            None if material is None else "KEY_MATERIAL_EXPIRES" if valid_to else "KEY_MATERIAL_DOES_NOT_EXPIRE",
        ),
    )
    if material is not None:
        database.execute(
            "INSERT INTO token_object (object_id, owner, status, created_at) VALUES (?, ?, 'ready', ?)",
            (material, f"imported:{key_id}", micros(IMPORTED)),
        )
        database.execute(
            "INSERT INTO material (material_id, key_id, algorithm, created_at) VALUES (?, ?, 1, ?)",
            (material, key_id, micros(IMPORTED)),
        )


def insert_record(database: sqlite3.Connection, key_id: str, letter: bytes) -> None:
    """The record of the material that was first imported into a key."""
    database.execute(
        "INSERT INTO imported_material (key_id, material_id, algorithm, fingerprint, description) "
        "VALUES (?, ?, 1, ?, 'from the vault')",
        (key_id, letter * 16, letter.upper() * 16),
    )


def record(letter: bytes, at: datetime, valid_to: datetime | None = None) -> ImportedMaterial:
    """The same in this release."""
    return ImportedMaterial(
        material_id=letter * 16,
        algorithm=Algorithm.XAES_256_GCM,
        fingerprint=letter.upper() * 16,
        imported_at=at,
        state=KeyMaterialState.CURRENT,
        description="from the vault",
        valid_to=valid_to,
    )


async def test_the_one_material_is_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its expiry, whether or not it is imported now; the keys are what they were."""
    path = tmp_path / "kmsd.sqlite"
    earlier_database(path, 8, monkeypatch)
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO account (account, created_at) VALUES ('000000000000', 0)")
        for key_id, letter, valid_to in ((IMPORTED_KEY, b"a", None), (EXPIRING_KEY, b"b", EXPIRES)):
            insert_key(database, key_id, letter * 16, valid_to)
            insert_record(database, key_id, letter)
        insert_key(database, EMPTIED_KEY, None, None)
        insert_record(database, EMPTIED_KEY, b"c")
        insert_key(database, NEW_KEY, None, None)
        database.commit()
    assert connection.migrate(path) == len([step for step in connection.migrations() if step[0] > 8])
    store = SqliteStore(path)
    try:
        reader = await store.read()
        assert await reader.imported_materials(IMPORTED_KEY) == [record(b"a", IMPORTED)]
        assert await reader.imported_materials(EXPIRING_KEY) == [record(b"b", IMPORTED, EXPIRES)]
        assert await reader.imported_materials(EMPTIED_KEY) == [record(b"c", CREATED)]
        assert await reader.imported_materials(NEW_KEY) == []
        assert await reader.keys_due(DueKind.EXPIRY, EXPIRES, 9) == [EXPIRING_KEY]
        key = await reader.key(EXPIRING_KEY)
        assert key is not None
        assert key.current_material is not None
        assert (key.current_material.material_id, key.valid_to) == (b"b" * 16, EXPIRES)
        async with store.write() as transaction:
            await transaction.delete_key(EXPIRING_KEY)
        assert await (await store.read()).imported_materials(EXPIRING_KEY) == []
    finally:
        await store.close()
