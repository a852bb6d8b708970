"""Each read of the PostgreSQL store is of one moment, whatever is committed while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User
from kmsd.ports import Reader
from tests.support.domain_keys import ACCOUNT
from tests.support.domain_keys import CREATED as NOW
from tests.support.polling import until
from tests.support.postgres import cluster, connect

USER = User(ACCOUNT, "one", "AIDA1", "arn:aws:iam::1:user/one", NOW, {"p": "old", "q": "kept"}, {"t": "old"})
OTHER = User(ACCOUNT, "two", "AIDA2", "arn:aws:iam::1:user/two", NOW, {}, {"t": "old"})
ROLE = Role(ACCOUNT, "three", "AROA3", "arn:aws:iam::1:role/three", "old", 3600, NOW, {"p": "old"}, {"t": "old"})
KEY = AccessKey("AKIA1", USER, b"sealed", AccessKeyStatus.ACTIVE, NOW)
CHANGE = """
    UPDATE user_policy SET document = 'new' WHERE name = 'p'; UPDATE user_tag SET tag_value = 'new';
    UPDATE access_key SET status = 'Inactive'; UPDATE role SET trust_policy = 'new';
    UPDATE role_policy SET document = 'new'; UPDATE role_tag SET tag_value = 'new';"""

Read = Callable[[Reader], Awaitable[object]]


@pytest.fixture(name="database")
async def _database() -> PostgresSettings:
    """A database with kmsd's tables."""
    settings = cluster().database()
    await schema.create(settings)
    return settings


@pytest.fixture(name="store")
async def _store(database: PostgresSettings) -> AsyncIterator[PostgresStore]:
    """The store, with two users, a role and an access key."""
    opened = await PostgresStore.open(database)
    async with opened.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        for user in (USER, OTHER):
            await transaction.insert_user(user)
        await transaction.insert_access_key(KEY)
        await transaction.insert_role(ROLE)
    yield opened
    await opened.close()


async def read_during_change(store: PostgresStore, database: PostgresSettings, read: Read) -> object:
    """What is read, by a statement that waits at the tables of tags until the change is committed."""
    connection, reader = await connect(database), await store.read()
    change = connection.transaction()
    await change.start()
    await connection.execute("LOCK TABLE user_tag, role_tag IN ACCESS EXCLUSIVE MODE")
    reading = asyncio.ensure_future(read(reader))
    await asyncio.to_thread(until, lambda: cluster().run_sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0")
    await connection.execute(CHANGE)
    await change.commit()
    await connection.close()
    return await reading


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.user(ACCOUNT, "one"),
        lambda reader: reader.users(),
        lambda reader: reader.role(ACCOUNT, "three"),
        lambda reader: reader.roles(),
        lambda reader: reader.access_key("AKIA1"),
        lambda reader: reader.access_keys_of(ACCOUNT, "one"),
    ],
    ids=["user", "users", "role", "roles", "access_key", "access_keys_of"],
)
async def test_a_change_is_seen_as_a_whole(store: PostgresStore, database: PostgresSettings, read: Read) -> None:
    """Policies, tags and status are all as before the change, or all as after it."""
    before = await read(store._reader)
    store._reader._invalidate_all()  # what the next read finds in the cache would prove nothing
    during = await read_during_change(store, database, read)
    store._reader._invalidate_all()
    after = await read(await store.read())
    assert before != after
    assert during in (before, after)
