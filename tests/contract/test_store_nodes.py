"""Nodes in the store: the table, on every adapter; and hosts that share one PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from kmsd import __version__
from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.custody import token_objects
from kmsd.domain.material import MaterialStatus
from kmsd.domain.trusted_time import ClockSample, Uptime
from kmsd.ports import Node, Store, StoreConflict, StoreUnfit
from tests.contract.stores import Pair
from tests.support.postgres import cluster, connect

Hosts = tuple[PostgresStore, PostgresStore]
NOW = datetime(2026, 11, 30, tzinfo=UTC)
FIRST, SECOND = (Node(digit * 32, f"node-{digit}", NOW, NOW + timedelta(hours=1), "0.1.0") for digit in "ab")
SAMPLE = ClockSample(NOW, Uptime("boot", 5.0), timedelta(seconds=2))


async def insert(store: Store, *nodes: Node) -> None:
    """In one transaction."""
    async with store.write() as transaction:
        for node in nodes:
            await transaction.insert_node(node)


async def test_nodes_are_kept_and_listed_by_name(stores: Pair) -> None:
    """Id and name are taken once; what is deleted is gone."""
    first, second = stores
    assert await (await first.read()).nodes() == []
    await insert(first, SECOND, FIRST)
    assert await (await second.read()).nodes() == [FIRST, SECOND]
    for clash in (Node(FIRST.node_id, "other", NOW, NOW, ""), Node("c" * 32, FIRST.name, NOW, NOW, "")):
        with pytest.raises(StoreConflict):
            await insert(second, clash)
    async with second.write() as transaction:
        await transaction.delete_node(FIRST.node_id)
    assert await (await first.read()).nodes() == [SECOND]
    with pytest.raises(StoreConflict):
        async with second.write() as transaction:
            await transaction.delete_node(FIRST.node_id)


async def test_the_time_of_the_database(stores: Pair) -> None:
    """The server is on this host."""
    before = datetime.now(UTC)
    found = await (await stores[0].read()).database_now()
    assert before - timedelta(seconds=1) <= found <= datetime.now(UTC) + timedelta(seconds=1)


async def test_no_other_node_has_a_clock(stores: Pair) -> None:
    """On a database of one host."""
    async with stores[0].write() as transaction:
        await transaction.put_clock_reading(SAMPLE)
    reader = await stores[1].read()
    assert (await reader.clock_reading(), await reader.trusted_by_others()) == (SAMPLE, None)


@pytest.fixture(name="database")
async def _database() -> PostgresSettings:
    """A database with two nodes, and a reading of the clock of before there were any."""
    settings = cluster().database()
    await schema.create(settings)
    store = await PostgresStore.open(settings)
    async with store.write() as transaction:
        await transaction.put_clock_reading(SAMPLE)
    await insert(store, FIRST, SECOND)
    await store.close()
    return settings


@pytest.fixture(name="hosts")
async def _hosts(database: PostgresSettings) -> AsyncIterator[Hosts]:
    """A process on each of the two nodes."""
    opened = await PostgresStore.open(database, FIRST.node_id), await PostgresStore.open(database, SECOND.node_id)
    yield opened
    for store in opened:
        await store.close()


async def test_each_host_has_a_clock_of_its_own(hosts: Hosts) -> None:
    """The first node takes over the reading of before; the other's reading replaces nothing of it."""
    first, second = hosts
    assert await (await second.read()).clock_reading() is None
    other = ClockSample(NOW - timedelta(hours=3), Uptime("another boot", 1.0), timedelta(0))
    async with second.write() as transaction:
        await transaction.put_clock_reading(other)
    assert await (await first.read()).clock_reading() == SAMPLE
    assert await (await second.read()).clock_reading() == other


async def test_the_trusted_time_of_other_nodes(hosts: Hosts) -> None:
    """It goes on with the server's clock after the reading was stored; the own one does not count."""
    first, second = hosts
    late = ClockSample(datetime.now(UTC) - timedelta(hours=3), Uptime("another boot", 1.0), timedelta(0))
    for store, sample in ((first, ClockSample(NOW, SAMPLE.uptime, timedelta(0))), (second, late)):
        async with store.write() as transaction:
            await transaction.put_clock_reading(sample)
    found = await (await first.read()).trusted_by_others()
    assert found is not None
    assert late.trusted_at <= found <= datetime.now(UTC) - timedelta(hours=2, minutes=59)
    async with first.write() as transaction:
        await transaction.delete_node(SECOND.node_id)
    assert await (await first.read()).trusted_by_others() is None


async def test_a_host_that_is_no_node_is_refused(hosts: Hosts, database: PostgresSettings) -> None:
    """One that has not joined at its first question; one that is removed at its next question or transaction."""
    with pytest.raises(StoreUnfit, match="kmsd join"):
        await PostgresStore.open(database, "c" * 32)
    first, second = hosts
    await second.read()
    await second.check()
    async with first.write() as transaction:
        await transaction.delete_node(SECOND.node_id)
    with pytest.raises(StoreUnfit, match="no node of the database"):
        await second.read()
    with pytest.raises(StoreUnfit, match="no node of the database"):
        async with second.write():
            raise AssertionError("the transaction has begun")
    assert [one.node_id for one in await (await first.read()).nodes()] == [FIRST.node_id]


async def set_back(database: PostgresSettings, seconds: int) -> None:
    """Have all processes have said that they are alive so much earlier."""
    connection = await connect(database)
    await connection.execute("UPDATE maker SET seen_at = seen_at - $1", seconds * 1_000_000)
    await connection.close()


async def test_what_an_ended_process_has_left_is_settled(hosts: Hosts, database: PostgresSettings) -> None:
    """Its intents and its leases, once it has not said for half a minute that it is alive; the own ones stay."""
    first, second = hosts
    own, foreign = [await token_objects.record_intent(store, "key:x", NOW) for store in hosts]

    async def acquire(store: Store, holder: str) -> bool:
        async with store.write() as transaction:
            # By a clock that is an hour ahead: the server's counts.
            now = datetime.now(UTC) + timedelta(hours=1)
            return await transaction.acquire_lease("jobs", holder, now, now + timedelta(seconds=90))

    async def orphaned() -> tuple[bool, bool]:
        reader = await first.read()
        rows = {row.object_id: row.owner_is_dead for row in await reader.token_objects()}
        one = await reader.token_object(foreign)
        assert one is not None
        assert one.owner_is_dead == rows[foreign]
        return rows[own], rows[foreign]

    assert await acquire(second, "second")
    await set_back(database, 25)
    assert (await orphaned(), await acquire(first, "first")) == ((False, False), False)
    await set_back(database, 10)
    assert await orphaned() == (False, True)
    await second.beat()
    assert (await orphaned(), await acquire(first, "first")) == ((False, False), False)
    await set_back(database, 31)
    assert (await orphaned(), await acquire(first, "first")) == ((False, True), True)


async def test_a_process_that_was_only_slow_promises_nothing_that_was_undone(
    hosts: Hosts, database: PostgresSettings
) -> None:
    """Its intent was rolled back meanwhile: its own transaction conflicts."""
    first, second = hosts
    intent = await token_objects.record_intent(second, "key:x", NOW)
    await set_back(database, 31)
    async with first.write() as transaction:
        await transaction.set_object_status(intent, MaterialStatus.CREATING, MaterialStatus.DESTROYING)
    with pytest.raises(StoreConflict):
        async with second.write() as transaction:
            await token_objects.mark_ready(transaction, intent)


async def test_a_node_is_seen(hosts: Hosts) -> None:
    """By each of its processes, by the server's clock, with the version of its kmsd."""
    before = await (await hosts[0].read()).database_now()
    await hosts[1].beat()
    first, second = await (await hosts[0].read()).nodes()
    assert first.seen_at < before
    assert (second.seen_at >= before, second.version) == (True, __version__)
