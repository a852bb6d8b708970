"""Indexes of a migration are built while other processes write."""

from __future__ import annotations

import asyncio
import secrets

import asyncpg
import pytest

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.access import Member
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from tests.support.domain_keys import CREATED as NOW
from tests.support.polling import until
from tests.support.postgres import cluster, connect

BEFORE = """
    DROP INDEX grant_page; DROP INDEX wrapped_material_under; DROP INDEX key_rotation_due;
    CREATE INDEX key_rotation ON key (next_rotation_at) WHERE next_rotation_at IS NOT NULL;
    CREATE INDEX grant_key ON grant_ (key_id, grant_id);
    CREATE INDEX wrapped_material_domain_key ON wrapped_material (domain_key_id);
    UPDATE schema_version SET version = 17, compatible = 17"""
"""Makes the tables what they are in schema version 17."""
INDEXES = """
    SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relname ~ '^(grant_(page|key)|wrapped_material_(under|domain_key)|key_rotation(_due)?)$' ORDER BY 1"""
AFTER = {"grant_page": True, "key_rotation_due": True, "wrapped_material_under": True}
BUILDING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"


@pytest.fixture(name="database")
async def _database() -> PostgresSettings:
    """A database with the tables of schema version 17."""
    settings = cluster().database()
    await schema.create(settings)
    connection = await connect(settings)
    await connection.execute(BEFORE)
    await connection.close()
    return settings


async def indexes(connection: asyncpg.Connection) -> dict[str, bool]:
    """Each index, and if it is valid."""
    return {row[0]: row[1] for row in await connection.fetch(INDEXES)}


async def test_others_write_meanwhile(database: PostgresSettings) -> None:
    """A build waits for an older snapshot, and a process of the earlier release goes on to write."""
    with pytest.MonkeyPatch.context() as patch:
        known = schema.migrations()
        patch.setattr(schema, "migrations", lambda: [one for one in known if one[0] <= 17])
        earlier = await PostgresStore.open(database)
        await earlier.check()
    connection = await connect(database)
    async with connection.transaction(isolation="repeatable_read"):
        await connection.fetch("SELECT 1")
        migrating = [asyncio.create_task(schema.migrate(database, Member(0))) for _ in range(2)]
        await asyncio.to_thread(until, lambda: cluster().run_sql(BUILDING) == "1")
        for _ in range(3):
            async with earlier.write() as transaction:
                await transaction.insert_account(secrets.token_hex(6), NOW)
        assert not any(one.done() for one in migrating)
    assert sorted(await asyncio.gather(*migrating)) == [0, 1]
    assert await indexes(connection) == AFTER
    await connection.close()
    await earlier.close()


async def test_an_index_that_was_interrupted_is_built_again(database: PostgresSettings) -> None:
    """It is there, and no statement uses it."""
    connection = await connect(database)
    await connection.execute("CREATE INDEX grant_page ON grant_ (key_id, grant_id) WHERE grant_id > ''")
    await connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'grant_page'::regclass")
    assert await schema.migrate(database, Member(0)) == 1
    assert await indexes(connection) == AFTER
    await connection.close()


async def test_a_statement_ends_with_its_client(database: PostgresSettings) -> None:
    """The server does not go on with what nobody waits for."""
    async with schema.connected(database) as session:
        running = asyncio.create_task(session.fetch("SELECT pg_sleep(600), 'given up'"))
        there = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600), ''given%'"
        await asyncio.to_thread(until, lambda: cluster().run_sql(there) == "1")
        session.end()
        await asyncio.wait([running])
        assert running.exception() is not None
    await asyncio.to_thread(until, lambda: cluster().run_sql(there) == "0")
