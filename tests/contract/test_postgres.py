"""The PostgreSQL store: lost connections, unknown outcomes, and questions that many wait for."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.access import RAISE_NUMBER, Member
from kmsd.adapters.postgres.connector import SESSION
from kmsd.adapters.postgres.read_index import ReadIndex
from kmsd.adapters.postgres.settings import DatabaseUrl, PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.custody import key_material
from kmsd.domain.key_state import KeyState
from kmsd.ports import StoreConflict, StoreMissing, StoreTimeout, StoreUnavailable, StoreUnfit, TextRefused
from tests.support.domain_keys import ACCOUNT, KEY_ID, a_key
from tests.support.domain_keys import CREATED as NOW
from tests.support.polling import until
from tests.support.postgres import cluster, connect
from tests.support.stored_keys import a_domain_key, wrapped


@pytest.fixture(name="database")
async def _database() -> PostgresSettings:
    """A database with kmsd's tables."""
    settings = cluster().database()
    await schema.create(settings)
    return settings


@pytest.fixture
async def store(database: PostgresSettings) -> AsyncIterator[PostgresStore]:
    """The store, open."""
    opened = await PostgresStore.open(database)
    yield opened
    await opened.close()


async def accounts(database: PostgresSettings) -> set[str]:
    """What another program reads."""
    connection = await connect(database)
    try:
        return {row[0] for row in await connection.fetch("SELECT account FROM account")}
    finally:
        await connection.close()


async def end_backends(database: PostgresSettings, *, of: str) -> None:
    """End the server's processes of kmsd's connections that are running a statement like this."""
    connection = await connect(database)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'kmsd' AND query LIKE $1",
            of,
        )
    finally:
        await connection.close()


async def insert_account(store: PostgresStore, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    """One transaction, in which something happens."""
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        if meanwhile is not None:
            await meanwhile()


async def test_databases_that_are_not_kmsds(database: PostgresSettings) -> None:
    """An empty one, one of another version and one that exists already are told apart."""
    with pytest.raises(StoreMissing, match="kmsd init"):
        await PostgresStore.open(cluster().database())
    with pytest.raises(StoreConflict):
        await schema.create(database)
    connection = await connect(database)
    await connection.execute("UPDATE schema_version SET version = 99, compatible = 99")
    await connection.close()
    with pytest.raises(StoreUnfit, match="99"):
        await PostgresStore.open(database)


async def test_a_newer_release_beside_this_one(database: PostgresSettings) -> None:
    """Tables to which it has only added something serve on, also after a restart; nothing is migrated back."""
    opened = await PostgresStore.open(database)
    connection = await connect(database)
    assert await connection.fetchval("SELECT compatible FROM schema_version") <= schema.newest()
    await connection.execute(
        "ALTER TABLE account ADD COLUMN later TEXT DEFAULT 'x'; UPDATE schema_version SET version = 99"
    )
    again = await PostgresStore.open(database)
    for store in (opened, again):
        async with store.write() as transaction:
            await transaction.insert_account(secrets.token_hex(6), NOW)
        await store.read()
        await store.close()
    assert await schema.migrate(database, Member(0)) == 0
    assert await connection.fetchval("SELECT version FROM schema_version") == 99
    await connection.close()


def test_what_a_migration_says_of_earlier_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one counts: a later one that only adds does not undo what an earlier one has changed."""
    steps = [(20, "-- A table."), (21, "-- Compatible with 19.\n-- A column."), (22, "-- Compatible with 21.\n--")]
    for count, expected in ((1, 20), (2, 20), (3, 21)):
        monkeypatch.setattr(schema, "migrations", lambda count=count: steps[:count])
        assert schema._compatible() == expected


async def test_a_text_that_it_cannot_hold(store: PostgresStore, database: PostgresSettings) -> None:
    """It is refused by name, before anything is sent; the transaction changes nothing, and the store serves on."""

    async def insert_both() -> None:
        async with store.write() as transaction:
            await transaction.insert_account(ACCOUNT, NOW)
            await transaction.insert_account("\0", NOW)

    with pytest.raises(TextRefused, match=r"U\+0000"):
        await insert_both()
    assert await accounts(database) == set()
    with pytest.raises(TextRefused):
        await (await store.read()).alias(ACCOUNT, "alias/\0")
    await insert_account(store)
    assert await accounts(database) == {ACCOUNT}


async def test_no_server() -> None:
    """The store is unavailable, and may recover."""
    with pytest.raises(StoreUnavailable):
        await PostgresStore.open(PostgresSettings(DatabaseUrl.parse("postgresql://kmsd@/nothing?host=/nonexistent")))


async def test_it_recovers_from_lost_connections(store: PostgresStore, database: PostgresSettings) -> None:
    """The request that meets the loss fails or is served; later ones are served."""
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
    await end_backends(database, of="%")
    for attempt in (store.read, store.check):
        for _ in range(3):
            try:
                await attempt()
            except StoreUnavailable:
                continue
            break
        else:
            raise AssertionError("it does not recover")
    assert await (await store.read()).count_keys(ACCOUNT) == 0


async def test_a_transaction_that_is_cut_off_changed_nothing(store: PostgresStore, database: PostgresSettings) -> None:
    """Its connection ends before COMMIT: the caller is told that it did not work."""
    with pytest.raises(StoreUnavailable):
        await insert_account(store, lambda: end_backends(database, of="INSERT INTO account%"))
    assert await accounts(database) == set()
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
    assert await accounts(database) == {ACCOUNT}


@pytest.mark.parametrize("worked", [True, False], ids=["committed", "not committed"])
async def test_an_unknown_outcome_is_settled(
    store: PostgresStore, database: PostgresSettings, monkeypatch: pytest.MonkeyPatch, *, worked: bool
) -> None:
    """The answer to COMMIT is lost. What the caller is told is what the database holds."""
    execute = asyncpg.Connection.execute

    async def lose_answer(self: asyncpg.Connection, query: str, *arguments: object, **options: object) -> str:
        if not query.endswith("COMMIT"):
            return str(await execute(self, query, *arguments, **options))
        if worked:
            await execute(self, query, *arguments, **options)
        self.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(asyncpg.Connection, "execute", lose_answer)
    if worked:
        await insert_account(store)
    else:
        with pytest.raises(StoreUnavailable, match="was not committed"):
            await insert_account(store)
    monkeypatch.undo()
    assert await accounts(database) == ({ACCOUNT} if worked else set())


async def test_a_key_and_its_materials_are_of_one_moment(store: PostgresStore, database: PostgresSettings) -> None:
    """A change that commits while they are read is seen in both, or in neither."""
    material = wrapped(await a_domain_key(store))
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        await transaction.insert_key(a_key(current_material=material))
        await key_material.add(transaction, KEY_ID, material)
    connection, reader = await connect(database), await store.read()
    # The change holds the table of materials until it commits; a reader waits there.
    change = connection.transaction()
    await change.start()
    await connection.execute("LOCK TABLE material IN ACCESS EXCLUSIVE MODE")
    reading = asyncio.create_task(reader.key(KEY_ID))
    await asyncio.to_thread(until, lambda: cluster().run_sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0")
    await connection.execute("UPDATE key SET current_material = NULL, state = 'PendingImport'")
    await connection.execute("DELETE FROM material")
    await change.commit()
    await connection.close()
    key = await reading
    assert key is not None
    assert (key.state, dict(key.materials)) == (KeyState.PENDING_IMPORT, {})


def frozen_in_a_transaction(database: PostgresSettings) -> socket.socket:
    """A connection of a process that has the writer's lock, lets a statement be prepared, and goes no further."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    host = database.url.hosts[0]
    found = socket.socket(socket.AF_UNIX)
    found.connect(f"{host.name}/.s.PGSQL.{host.port}")
    given = {"user": "kmsd", "database": database.url.database, **SESSION}
    start = b"".join(f"{name}\0{value}\0".encode() for name, value in given.items()) + b"\0"
    found.sendall(message(b"", struct.pack("!I", 3 << 16) + start))
    found.sendall(message(b"Q", f"BEGIN; {RAISE_NUMBER}\0".encode()))
    found.sendall(message(b"P", b"name\0SELECT 1\0\0\0") + message(b"H", b""))
    is_there = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND query = 'SELECT 1'"
    until(lambda: cluster().run_sql(is_there) == "1")
    return found


async def test_a_writer_that_is_frozen_while_it_prepares(store: PostgresStore, database: PostgresSettings) -> None:
    """No deadline of the server ends its transaction. The next writer does, after its own wait for the lock."""
    frozen = await asyncio.to_thread(frozen_in_a_transaction, database)
    with pytest.raises(StoreTimeout):
        await insert_account(store)
    await insert_account(store)
    assert await accounts(database) == {ACCOUNT}
    frozen.close()


async def test_a_late_commit_does_not_come_after_the_verdict(store: PostgresStore, database: PostgresSettings) -> None:
    """What was settled as abandoned cannot be committed any more, however late its server process goes on."""
    connection = await connect(database)
    await connection.execute("INSERT INTO outcome (id, what, seq) VALUES ('late', 'abandoned', 0)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("BEGIN; INSERT INTO outcome (id, what, seq) VALUES ('late', 'committed', 0); COMMIT")
    await connection.close()
    assert await accounts(database) == set()
    await store.check()


async def test_a_question_starts_after_each_arrival() -> None:
    """Arrivals while one is under way wait for the next; one answer serves all that wait; cancelling harms nobody."""
    asked, release = 0, asyncio.Event()

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await release.wait()

    index = ReadIndex(ask)
    first = asyncio.create_task(index.barrier())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asked == 1
    later = [asyncio.create_task(index.barrier()) for _ in range(5)]
    await asyncio.sleep(0)
    later[0].cancel()
    release.set()
    await asyncio.gather(first, *later[1:])
    assert asked == 2


async def test_an_error_is_that_of_all_who_wait() -> None:
    """And the next question is asked again."""
    errors = [StoreUnavailable("away")]

    async def ask() -> None:
        if errors:
            raise errors.pop()

    index = ReadIndex(ask)
    results = await asyncio.gather(*(index.barrier() for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in results] == [StoreUnavailable] * 3
    await index.barrier()
