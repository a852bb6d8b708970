"""What the store promises of transactions that meet."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime

import pytest

from kmsd.custody import token_objects
from kmsd.domain.material import MaterialStatus
from kmsd.ports import Store, StoreConflict, TokenObject
from tests.contract.stores import Pair

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def intent() -> TokenObject:
    """A row that is not in any store yet."""
    return TokenObject(secrets.token_bytes(16), "key:x", MaterialStatus.CREATING, NOW)


async def test_transactions_run_one_after_the_other(stores: Pair) -> None:
    """The second one begins when the first has ended, and reads what it has written."""
    first, second = stores
    row, has_begun = intent(), asyncio.Event()

    async def follow() -> TokenObject | None:
        async with second.write() as transaction:
            has_begun.set()
            return await transaction.token_object(row.object_id)

    async with first.write() as transaction:
        following = asyncio.create_task(follow())
        await transaction.insert_token_object(row)
        for _ in range(100):
            await asyncio.sleep(0)
        assert await transaction.token_object(row.object_id) is not None
        assert not has_begun.is_set()
    assert await following is not None


async def test_the_method_that_meets_a_conflict_raises_it(stores: Pair) -> None:
    """Not the end of the transaction; and nothing is kept of what was written before it."""
    first, second = stores
    known, fresh = await token_objects.record_intent(first, "key:x", NOW), intent()
    reached = []

    async def doom() -> None:
        async with second.write() as transaction:
            await transaction.insert_token_object(fresh)
            reached.append("inserted")
            await transaction.set_object_status(known, MaterialStatus.READY, MaterialStatus.DESTROYING)
            reached.append("end")

    with pytest.raises(StoreConflict):
        await doom()
    assert reached == ["inserted"]
    reader = await first.read()
    assert await reader.token_object(fresh.object_id) is None
    found = await reader.token_object(known)
    assert found is not None
    assert found.status is MaterialStatus.CREATING


async def test_of_two_changes_of_one_state_the_second_conflicts(stores: Pair) -> None:
    """Both have read the same: compare and swap lets one through."""
    first, second = stores
    known = await token_objects.record_intent(first, "key:x", NOW)

    async def promise(store: Store) -> str:
        try:
            async with store.write() as transaction:
                await transaction.set_object_status(known, MaterialStatus.CREATING, MaterialStatus.READY)
        except StoreConflict:
            return "conflict"
        return "ready"

    assert sorted(await asyncio.gather(promise(first), promise(second))) == ["conflict", "ready"]
