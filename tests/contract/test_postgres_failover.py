"""The PostgreSQL store on several servers: the one that accepts writes is found, and an old one is not believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.segments import PostgresSegments
from kmsd.adapters.postgres.settings import DatabaseUrl, Host, PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from kmsd.ports import StoreUnavailable
from tests.support.domain_keys import ACCOUNT
from tests.support.domain_keys import CREATED as NOW
from tests.support.log_segments import GROUP, KEY, found, frame
from tests.support.polling import until, until_async
from tests.support.postgres import Cluster, connect, new_cluster

FAST = {"connect_seconds": 3.0, "question_seconds": 1.0, "call_seconds": 3.0}


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary, and its synchronous standby."""
    primary = new_cluster()
    standby = primary.standby()
    yield primary, standby
    for one in (primary, standby):
        one.stop()


@pytest.fixture(name="database")
async def _database(pair: tuple[Cluster, Cluster]) -> PostgresSettings:
    """A database with kmsd's tables, on both hosts; the standby is named first."""
    primary, standby = pair
    settings = primary.database()
    await schema.create(settings)
    hosts = Host(str(standby.folder)), Host(str(primary.folder))
    return replace(settings, url=DatabaseUrl("kmsd", hosts, settings.url.database), **FAST)


@pytest.fixture
async def store(database: PostgresSettings) -> AsyncIterator[PostgresStore]:
    """The store, open."""
    opened = await PostgresStore.open(database)
    yield opened
    await opened.close()


async def insert_account(store: PostgresStore, account: str = ACCOUNT) -> None:
    """One transaction."""
    async with store.write() as transaction:
        await transaction.insert_account(account, NOW)


async def until_it_works(act: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    """Repeat what the store cannot do yet. Raises its last error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await act()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def test_the_one_that_accepts_writes(database: PostgresSettings, pair: tuple[Cluster, Cluster]) -> None:
    """Of a standby and a primary the primary; of an old primary and the one that replaced it, the latter."""
    primary, standby = pair
    (found,) = await Connector(database).connect()
    assert (found.host.name, found.timeline, found.has_synchronous_standbys) == (str(primary.folder), 1, True)
    found.connection.terminate()
    standby.promote()
    connector = Connector(database)
    both = await connector.connect(2)
    assert {(one.host.name, one.timeline) for one in both} == {(str(standby.folder), 2)}
    for one in both:
        one.connection.terminate()
    standby.freeze()
    with pytest.raises(StoreUnavailable, match="it was replaced: its timeline is 1, and 2 was seen"):
        await connector.connect()


async def test_a_frozen_primary(
    store: PostgresStore, database: PostgresSettings, pair: tuple[Cluster, Cluster]
) -> None:
    """It takes its connections along, and no time: the promoted standby serves, with all that was acknowledged."""
    primary, standby = pair
    await insert_account(store)
    primary.freeze()
    with pytest.raises(StoreUnavailable):
        await store.read()
    standby.promote()
    await until_it_works(store.read)
    assert await (await store.read()).count_keys(ACCOUNT) == 0
    await until_it_works(lambda: insert_account(store, "222222222222"))
    connection = await connect(database)
    assert {row[0] for row in await connection.fetch("SELECT account FROM account")} == {ACCOUNT, "222222222222"}
    await connection.close()


async def test_frames_over_a_failover(store: PostgresStore, pair: tuple[Cluster, Cluster]) -> None:
    """What was acknowledged is there, once. What was refused is not, unless its outcome could not be found out."""
    primary, standby = pair
    segments = PostgresSegments.of(store)
    acknowledged: list[int] = []
    unknown: list[int] = []
    over = False

    async def put(at: int) -> None:
        while not over:
            at += 1
            try:
                await segments.append(GROUP, frame(at), b"%d" % at, KEY)
            except SegmentsUnavailable as exc:
                if "not known" in str(exc):
                    unknown.append(at)
                await asyncio.sleep(0.05)
            else:
                acknowledged.append(at)

    async def more() -> None:
        wanted = len(acknowledged) + 20

        async def is_there() -> None:
            if len(acknowledged) < wanted:
                raise StoreUnavailable("not yet")

        await until_it_works(is_there)

    putting = [asyncio.create_task(put(100_000 * number)) for number in range(4)]
    await more()
    primary.freeze()
    await asyncio.to_thread(standby.promote)
    await more()
    primary.thaw()
    await more()
    over = True
    await asyncio.gather(*putting)
    await until_it_works(store.read)
    stored = [one.frame.first_at for one in await found(segments)]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored) <= {*acknowledged, *unknown}
    (summary,) = (await segments.summaries(GROUP)).values()
    assert summary.events == 2 * len(stored)
    await segments.close()


async def test_a_standby_that_is_promoted_while_it_is_asked(
    database: PostgresSettings, pair: tuple[Cluster, Cluster]
) -> None:
    """It has refused, and the primary does not answer. It is asked again, and found long before the deadline."""
    primary, standby = pair
    primary.freeze()
    searching = asyncio.create_task(Connector(replace(database, connect_seconds=120.0)).connect())
    primary_is_asked, standby_is_asked = (f"kmsd-connect-{one.folder}:5432" for one in pair)
    await until_async(lambda: {primary_is_asked, standby_is_asked} <= names())
    await until_async(lambda: standby_is_asked not in names())
    await asyncio.to_thread(standby.promote)
    (found,) = await asyncio.wait_for(searching, 60)
    assert (found.host.name, found.timeline) == (str(standby.folder), 2)
    found.connection.terminate()


async def test_a_statement_on_a_frozen_primary(database: PostgresSettings, pair: tuple[Cluster, Cluster]) -> None:
    """It fails long before its deadline, although no request asks a question: of a transaction, and of a reader."""
    primary, standby = pair
    store = await PostgresStore.open(replace(database, call_seconds=120.0))
    await insert_account(store)

    async def write() -> None:
        async with store.write() as transaction:
            primary.freeze()
            await transaction.insert_account("222222222222", NOW)

    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(write(), 60)
    standby.promote()
    await until_it_works(store.read)
    reader = await store.read()
    standby.freeze()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(reader.count_keys(ACCOUNT), 60)
    await store.close()


def names() -> set[str]:
    """Tasks of this event loop."""
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_an_old_primary_that_goes_on_answering(
    store: PostgresStore, database: PostgresSettings, pair: tuple[Cluster, Cluster]
) -> None:
    """Its standby was promoted. It answers plain questions. A confirmed one finds the new primary."""
    _, standby = pair
    plain = await PostgresStore.open(replace(database, questions="plain"))
    standby.promote()
    await plain.read()  # the old primary answers, and does not know
    await until_it_works(store.read)
    await insert_account(store)
    connection = await connect(database)
    assert await connection.fetchval("SELECT count(*) FROM account") == 1
    await connection.close()
    await plain.close()


async def test_a_wait_for_the_standby_that_is_cancelled(
    database: PostgresSettings, pair: tuple[Cluster, Cluster]
) -> None:
    """The server reports success, which no standby has: the outcome is unknown until the standby is back."""
    primary, standby = pair
    store = await PostgresStore.open(replace(database, call_seconds=30.0))
    standby.freeze()
    writing = asyncio.create_task(insert_account(store))
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%INSERT INTO outcome%COMMIT'"
    await until_it_works(lambda: _is_there(primary, waits))
    primary.run_sql(waits.replace("pid", "pg_cancel_backend(pid)", 1))
    await until_it_works(lambda: _is_there(primary, waits.replace("%INSERT INTO outcome%COMMIT", "%FROM outcome%")))
    assert not writing.done()
    standby.thaw()
    await writing
    await store.close()
    primary.freeze()
    standby.promote()
    connection = await connect(database)
    assert await connection.fetchval("SELECT count(*) FROM account") == 1
    await connection.close()


async def _is_there(server: Cluster, query: str) -> None:
    """Raise `StoreUnavailable` while a query finds nothing."""
    if not await asyncio.to_thread(server.run_sql, query):
        raise StoreUnavailable("not yet")


async def test_a_standby_that_comes_later(store: PostgresStore, pair: tuple[Cluster, Cluster]) -> None:
    """Questions are confirmed from then on, also on older connections: none is answered while the standby is frozen."""
    primary, standby = pair
    primary.run_sql("ALTER SYSTEM RESET synchronous_standby_names")
    primary.run_sql("SELECT pg_reload_conf()")
    await store.close()
    standby.freeze()
    await until_it_works(store.read)  # it connects again, to a server that waits for no standby
    primary.run_sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.run_sql("SELECT pg_reload_conf()")
    until(lambda: primary.run_sql("SHOW synchronous_standby_names") == "*")
    with pytest.raises(StoreUnavailable, match="did not answer in 1 s"):
        await store.read()
    standby.thaw()
    await until_it_works(store.read)


async def test_the_rate_of_confirmed_questions(database: PostgresSettings) -> None:
    """It is bounded: requests one after the other share no question, and wait for their turn after a burst."""
    begun = time.monotonic()
    store = await PostgresStore.open(replace(database, questions_per_second=20.0))
    for _ in range(30):
        await store.read()
    assert time.monotonic() - begun >= (30 - 20) / 20
    await asyncio.gather(*(store.read() for _ in range(1000)))  # a few questions are enough for all of them
    await store.close()
    plain = await PostgresStore.open(replace(database, questions="plain", questions_per_second=1.0))
    for _ in range(5):
        await plain.read()
    await plain.close()


def test_two_addresses_of_nothing(tmp_path: Path) -> None:
    """Each is named, with its reason."""
    url = DatabaseUrl("kmsd", (Host(str(tmp_path)), Host("127.0.0.1", 1)), "kmsd")
    with pytest.raises(StoreUnavailable, match=r"no server of kmsd accepts writes \(/.*:5432: .*; 127.0.0.1:1: "):
        asyncio.run(PostgresStore.open(PostgresSettings(url)))
