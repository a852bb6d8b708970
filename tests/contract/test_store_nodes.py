"""Nodes in the store: the table, on every adapter; and hosts that share one PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.domain.trusted_time import ClockSample, Uptime
from kmsd.ports import Node, Store, StoreConflict, StoreUnfit
from tests.contract.stores import Pair
from tests.support.postgres import cluster

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
async def _hosts(database: PostgresSettings) -> AsyncIterator[Pair]:
    """A process on each of the two nodes."""
    opened = await PostgresStore.open(database, FIRST.node_id), await PostgresStore.open(database, SECOND.node_id)
    yield opened
    for store in opened:
        await store.close()


async def test_each_host_has_a_clock_of_its_own(hosts: Pair) -> None:
    """The first node takes over the reading of before; the other's reading replaces nothing of it."""
    first, second = hosts
    assert await (await second.read()).clock_reading() is None
    other = ClockSample(NOW - timedelta(hours=3), Uptime("another boot", 1.0), timedelta(0))
    async with second.write() as transaction:
        await transaction.put_clock_reading(other)
    assert await (await first.read()).clock_reading() == SAMPLE
    assert await (await second.read()).clock_reading() == other


async def test_the_trusted_time_of_other_nodes(hosts: Pair) -> None:
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


async def test_a_host_that_is_no_node_is_refused(hosts: Pair, database: PostgresSettings) -> None:
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
    assert await (await first.read()).nodes() == [FIRST]
