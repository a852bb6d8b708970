"""Moving all tables from one database to another: each is moved or left for a reason, and each row is compared."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kmsd.adapters.postgres.database import PostgresDatabase
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql.tables import BATCH, LEFT, MOVED, move
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.ports import Node, StoreConflict, StoreMissing, StoreUnfit
from tests.support.postgres import cluster, connect

NOW = datetime(2026, 11, 30, tzinfo=UTC)
HERE = Node("a" * 32, "here", NOW, NOW, "1")
OWN = {"change_seq", "outcome", "schema_version", "sqlite_sequence"}
"""Tables that one of the databases has for itself."""
OBJECTS = 2 * BATCH + 1


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "kmsd.sqlite"


@pytest.fixture(name="source")
async def _source(file: Path) -> SqliteDatabase:
    """A file with more rows of a table than are moved at once, and with a key."""
    database = SqliteDatabase(file)
    await database.create()
    with closing(sqlite3.connect(file)) as opened, opened:
        rows = [(number.to_bytes(16), f"key:{number}", number) for number in range(OBJECTS)]
        opened.executemany(
            "INSERT INTO token_object (object_id, owner, status, created_at) VALUES (?, ?, 'ready', ?)", rows
        )
        opened.execute("INSERT INTO account (account, created_at) VALUES ('000000000000', 1)")
        opened.execute(
            "INSERT INTO key (key_id, account, arn, description, origin, state, policy, created_at) "
            "VALUES (?, '000000000000', 'arn', 'ä', 'AWS_KMS', 'Enabled', '{}', 1)",
            ("k" * 36,),
        )
        opened.execute("INSERT INTO clock_reading VALUES ('', 1, 'boot', 2, 3, 4)")
    return database


def settings() -> PostgresSettings:
    """An empty database of the server."""
    return cluster().database()


def rows_of(file: Path, table: str) -> list[tuple[object, ...]]:
    """All rows of a table in a file."""
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()  # noqa: S608 (a constant)


async def test_each_table_is_moved_or_left(source: SqliteDatabase, file: Path) -> None:
    """A table that a migration adds, and nobody moves, fails here."""
    in_file = {name for (name,) in rows_of(file, "(SELECT name FROM sqlite_master WHERE type = 'table')")}
    assert in_file - OWN == {*MOVED, *LEFT}
    target = settings()
    await PostgresDatabase(target).create()
    connection = await connect(target)
    found = await connection.fetch("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 2200")
    await connection.close()
    assert {row[0] for row in found} - OWN == {*MOVED, *LEFT}


async def test_there_and_back(source: SqliteDatabase, file: Path, tmp_path: Path) -> None:
    """Every row is there; counters are not counted twice; this host is the only node, and has the clock's reading."""
    given, back = settings(), tmp_path / "back.sqlite"
    target = PostgresDatabase(given, HERE.node_id)
    async with source.tables() as tables, target.creating(HERE) as empty:
        counts = await move(tables, empty, "")
    assert (counts["token_object"], counts["key"], counts["key_count"]) == (OBJECTS, 1, 1)
    connection = await connect(given)
    assert await connection.fetchval("SELECT keys FROM key_count") == 1
    assert await connection.fetchval("SELECT count(*) FROM change") == 0
    assert await connection.fetchval("SELECT node_id FROM clock_reading") == HERE.node_id
    await connection.execute("UPDATE key SET state = 'Disabled'")  # the triggers run again
    assert await connection.fetchval("SELECT keys FROM key_state_count WHERE state = 'Disabled'") == 1
    assert await connection.fetchval("SELECT subject FROM change") == "k" * 36
    await connection.execute("UPDATE key SET state = 'Enabled'")
    await connection.close()
    async with target.tables() as tables, SqliteDatabase(back).creating(None) as empty:
        await move(tables, empty, HERE.node_id)
    for table in MOVED:
        if table != "key_state_count":
            assert rows_of(back, f'"{table}"') == rows_of(file, f'"{table}"'), table
    with closing(sqlite3.connect(back)) as opened:
        opened.execute("UPDATE key SET state = 'Disabled'")
        assert opened.execute("SELECT subject FROM change").fetchall() == [("k" * 36,)]
    await target.retire()
    async with target.open() as store:
        with pytest.raises(StoreUnfit, match="no node of the database"):
            await store.read()


async def test_a_row_that_differs_is_found(source: SqliteDatabase, tmp_path: Path) -> None:
    """Then nothing is left of the new database."""
    target = tmp_path / "other.sqlite"

    async def spoilt() -> None:
        async with source.tables() as tables, SqliteDatabase(target).creating(None) as empty:
            empty._connection.execute(  # type: ignore[attr-defined]
                "CREATE TRIGGER spoil AFTER INSERT ON token_object WHEN NEW.created_at = 5001 "
                "BEGIN UPDATE token_object SET owner = 'x' WHERE object_id = NEW.object_id; END"
            )
            await move(tables, empty, "")

    with pytest.raises(StoreUnfit, match="the table token_object differs in row 5002 after"):
        await spoilt()
    assert [name for name in os.listdir(tmp_path) if name.startswith("other")] == []  # noqa: PTH208 (a task waits for it)


async def test_what_postgresql_cannot_store_is_named(source: SqliteDatabase, file: Path) -> None:
    """A text with U+0000. Nothing is left in the database, which can be used for the next attempt."""
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE key SET description = 'a' || char(0)")
    target = PostgresDatabase(settings())
    with pytest.raises(StoreUnfit, match=r"the row of key with key_id 'k{36}' has a text with U\+0000"):
        async with source.tables() as tables, target.creating(HERE) as empty:
            await move(tables, empty, "")
    assert not await target.exists()
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE key SET description = 'a'")
    async with source.tables() as tables, target.creating(HERE) as empty:
        await move(tables, empty, "")
    with pytest.raises(StoreConflict):
        async with target.creating(HERE):
            pass


async def test_a_retired_file_is_not_found(source: SqliteDatabase, file: Path) -> None:
    """It has another name; an earlier one keeps its own."""
    for name in ("kmsd.sqlite.moved", "kmsd.sqlite.moved-2"):
        assert str(file.with_name(name)) in await source.retire()
        assert file.with_name(name).exists()
        with pytest.raises(StoreMissing):
            await source.schema()
        await source.create()
