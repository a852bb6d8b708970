"""Transactions of one process that share a commit (`kmsd.adapters.sqlite.shared_commit`)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.domain.material import MaterialStatus
from kmsd.ports import StoreConflict, StoreTimeout, StoreUnavailable, TokenObject
from tests.contract.stores import Pair

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def intent() -> TokenObject:
    """A row that is not in any store yet."""
    return TokenObject(secrets.token_bytes(16), "key:x", MaterialStatus.CREATING, NOW)


class Call:
    """A call that inserts a row, and whose record is durable when the test says so."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.row = intent()
        self.is_finished = asyncio.Event()
        self.recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.store.write() as transaction:
            await transaction.insert_token_object(self.row)
            transaction.finish()
            self.is_finished.set()
            await self.recorded


async def finished(store: SqliteStore, count: int) -> list[Call]:
    """So many calls that all wait for their records."""
    calls = [Call(store) for _ in range(count)]
    async with asyncio.timeout(20):
        for call in calls:
            await call.is_finished.wait()
    return calls


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """One database, opened by two processes."""
    connection.create(tmp_path / "kmsd.sqlite")
    opened = SqliteStore(tmp_path / "kmsd.sqlite"), SqliteStore(tmp_path / "kmsd.sqlite")
    yield opened
    for store in opened:
        await store.close()


async def in_store(store: SqliteStore, rows: list[TokenObject]) -> list[bool]:
    """True for each row that a new request of the other process sees."""
    reader = await store.read()
    return [await reader.token_object(row.object_id) is not None for row in rows]


async def test_a_finished_transaction_is_committed_at_the_end_of_its_block(stores: Pair) -> None:
    """By every store."""
    first, second = stores
    row = intent()
    async with first.write() as transaction:
        await transaction.insert_token_object(row)
        transaction.finish()
        assert await (await second.read()).token_object(row.object_id) is None
    assert await (await second.read()).token_object(row.object_id) is not None


async def test_no_call_returns_before_the_record_of_each(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """They run while others wait for their records, and become visible together."""
    store, other = pair
    calls = await finished(store, 3)
    rows = [call.row for call in calls]
    for call in calls[:2]:
        call.recorded.set_result(None)
    await asyncio.wait([call.task for call in calls], timeout=0.05)
    assert [call.task.done() for call in calls] == [False] * 3
    assert await in_store(other, rows) == [False] * 3
    calls[2].recorded.set_result(None)
    await asyncio.gather(*(call.task for call in calls))
    assert await in_store(other, rows) == [True] * 3


async def test_a_transaction_after_the_first_record_belongs_to_the_next_commit(
    pair: tuple[SqliteStore, SqliteStore],
) -> None:
    """So a commit comes to an end under any load."""
    store, other = pair
    first, second = await finished(store, 2)
    first.recorded.set_result(None)
    await asyncio.sleep(0)
    late = Call(store)
    await asyncio.wait([late.task], timeout=0.05)
    assert not late.is_finished.is_set()
    second.recorded.set_result(None)
    await asyncio.gather(first.task, second.task)
    assert await in_store(other, [first.row, second.row, late.row]) == [True, True, False]
    late.recorded.set_result(None)
    await late.task


async def test_a_refused_transaction_is_undone_alone(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """It is answered after the commit, since it has seen what is not committed yet."""
    store, other = pair
    (first,) = await finished(store, 1)
    mine = intent()

    async def refused() -> None:
        async with store.write() as transaction:
            await transaction.insert_token_object(mine)
            await transaction.insert_token_object(first.row)

    second = asyncio.create_task(refused())
    third = Call(store)
    await third.is_finished.wait()
    assert not second.done()
    first.recorded.set_result(None)
    third.recorded.set_result(None)
    await asyncio.gather(first.task, third.task)
    with pytest.raises(StoreConflict):
        await second
    assert await in_store(other, [first.row, mine, third.row]) == [True, False, True]


FAULTS: dict[str, Callable[[Call], object]] = {
    "its record could not be written": lambda call: call.recorded.set_exception(OSError("no space left")),
    "it was cancelled": lambda call: call.task.cancel(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_call_without_its_record_takes_the_others_along(
    pair: tuple[SqliteStore, SqliteStore], which: int, fault: Callable[[Call], object]
) -> None:
    """None is acknowledged, none is in the database, and the next one works."""
    store, other = pair
    calls = await finished(store, 3)
    fault(calls[which])
    for call in calls:
        if call is not calls[which]:
            call.recorded.set_result(None)
    results = await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
    for number, result in enumerate(results):
        expected = (OSError, asyncio.CancelledError) if number == which else StoreUnavailable
        assert isinstance(result, expected)
    assert await in_store(other, [call.row for call in calls]) == [False] * 3
    (again,) = await finished(store, 1)
    again.recorded.set_result(None)
    await again.task
    assert await in_store(other, [again.row]) == [True]


async def test_nobody_joins_what_will_be_rolled_back(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """A call that comes after the failure is committed on its own."""
    store, other = pair
    first, second = await finished(store, 2)
    first.recorded.set_exception(OSError("no space left"))
    await asyncio.sleep(0)
    late = Call(store)
    second.recorded.set_result(None)
    late.recorded.set_result(None)
    await late.task
    assert await in_store(other, [first.row, second.row, late.row]) == [False, False, True]
    results = await asyncio.gather(first.task, second.task, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, StoreUnavailable]


async def test_a_full_database_loses_nothing_that_was_acknowledged(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """SQLite may roll back the whole transaction when the disk is full, not only the statement."""
    store, other = pair
    raw: Any = store
    (first,) = await finished(store, 1)
    (pages,) = raw._writing.execute("PRAGMA page_count").fetchone()
    raw._writing.execute(f"PRAGMA max_page_count = {pages}")

    async def fills() -> None:
        async with store.write() as transaction:
            for number in range(1000):
                await transaction.acquire_lease(f"{number} {'x' * 3000}", "holder", NOW, NOW)

    filling = asyncio.create_task(fills())
    await asyncio.wait([filling], timeout=0.2)
    first.recorded.set_result(None)
    with pytest.raises(StoreUnavailable):
        await filling
    await asyncio.wait([first.task])
    raw._writing.execute("PRAGMA max_page_count = 1073741823")
    acknowledged = first.task.exception() is None
    assert await in_store(other, [first.row]) == [acknowledged]
    (again,) = await finished(store, 1)
    again.recorded.set_result(None)
    await again.task


async def test_statements_after_the_last_one_are_refused(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """They would become part of another call's transaction."""
    store, other = pair
    row = intent()
    with pytest.raises(RuntimeError):  # noqa: PT012 (the block is what raises)
        async with store.write() as transaction:
            transaction.finish()
            await transaction.insert_token_object(row)
    assert await in_store(other, [row]) == [False]


async def test_another_process_waits_for_the_lock_and_gets_it(pair: tuple[SqliteStore, SqliteStore]) -> None:
    """And a process that waits too long says so, and can write later."""
    store, other = pair
    raw: Any = other
    raw._commits.busy_seconds = 0.02
    (first,) = await finished(store, 1)
    with pytest.raises(StoreTimeout):
        async with other.write():
            pass
    raw._commits.busy_seconds = 20
    waiting = Call(other)
    first.recorded.set_result(None)
    waiting.recorded.set_result(None)
    await asyncio.gather(first.task, waiting.task)
    assert await in_store(store, [first.row, waiting.row]) == [True, True]
