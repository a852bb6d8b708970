"""Segments in PostgreSQL: partitions that are dropped, connections that are lost, nodes that were removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg
import pytest
from msgspec.structs import replace

from kmsd.adapters.postgres import frame_lane, frame_retention, schema
from kmsd.adapters.postgres.connector import Connector, Server
from kmsd.adapters.postgres.frame_partitions import DAY
from kmsd.adapters.postgres.segments import PostgresSegments
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from kmsd.ports import Node
from tests.support.domain_keys import ACCOUNT
from tests.support.log_segments import GROUP, KEY, OTHER, found, frame
from tests.support.postgres import cluster, connect, new_cluster

NOW = datetime(2026, 11, 30, tzinfo=UTC)
AT = 20_000 * DAY
STREAM = b"\x00" * 16


class Process(NamedTuple):
    """The database as one process has it open."""

    store: PostgresStore
    segments: PostgresSegments


@pytest.fixture(name="database")
async def _database() -> PostgresSettings:
    """A database with kmsd's tables, and two groups."""
    settings = cluster().database()
    await schema.create(settings)
    return settings


@pytest.fixture(name="processes")
async def _processes(database: PostgresSettings) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes; two groups, of which events are kept for a day."""
    opened = [await PostgresStore.open(database) for _ in range(2)]
    async with opened[0].write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        for group_id, name in ((GROUP, "/one"), (OTHER, "/other")):
            await transaction.insert_log_group(LogGroup(group_id, ACCOUNT, name, name, NOW, retention_days=1))
    first, second = (Process(store, PostgresSegments.of(store)) for store in opened)
    yield first, second
    for one in (first, second):
        await one.segments.close()
        await one.store.close()


async def fetch(database: PostgresSettings, sql: str, *values: object) -> Sequence[tuple[object, ...]]:
    """What another program reads."""
    connection = await connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(sql, *values)]
    finally:
        await connection.close()


async def partitions(database: PostgresSettings) -> list[str]:
    """Names of the partitions of frames and sums, but for those of what does not expire."""
    rows = await fetch(database, "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1")
    return [str(name) for (name,) in rows if not str(name).endswith("_0")]


async def keep(process: Process, group_name: str, days: int | None) -> None:
    """As PutRetentionPolicy does."""
    async with process.store.write() as transaction:
        group = await transaction.log_group(ACCOUNT, group_name)
        assert group is not None
        await transaction.update_log_group(group, replace(group, retention_days=days))


async def put(process: Process, at: int, expires_at: int, group: bytes = GROUP, stream: int = 0) -> None:
    """One frame."""
    one = frame(at, stream=stream, at=AT)
    await process.segments.append(group, one, b"%d" % at, KEY, expires_at=expires_at)


async def count_of(process: Process, group: bytes = GROUP) -> int:
    """Events of a group, as the summaries count them."""
    return sum(one.events for one in (await process.segments.summaries(group)).values())


async def test_partitions_are_dropped_when_all_of_it_has_expired(
    database: PostgresSettings, processes: tuple[Process, Process]
) -> None:
    """With their sums, and seen by another process at once; what expires later stays, and what does not expire."""
    here, there = processes
    await put(here, AT, AT + DAY)
    await put(there, AT + 1, AT + 1 + DAY, OTHER)
    await put(here, AT + 2 * DAY, AT + 3 * DAY)
    await put(here, AT, 0)
    assert await partitions(database) == [
        f"log_frame{kind}_{day}" for kind in ("", "_sum") for day in (20_001, 20_002, 20_003)
    ]
    assert await here.segments.drop_expired(AT + DAY - 1) == []
    assert await here.segments.drop_expired(AT + 2 * DAY) == [GROUP, OTHER]
    assert await partitions(database) == ["log_frame_20003", "log_frame_sum_20003"]
    assert len(await found(there.segments)) == 2
    assert await count_of(there) == 4
    assert await found(there.segments, OTHER) == []
    assert await here.segments.drop_expired(AT + 2 * DAY) == []


@pytest.mark.parametrize("days", [30, None])
async def test_what_is_kept_longer_by_now_is_not_dropped(
    database: PostgresSettings, processes: tuple[Process, Process], days: int | None
) -> None:
    """It is moved to another partition: found as before, once, with its events; the other group's is dropped."""
    here, there = processes
    for at in range(450):
        await put(here, AT + at, AT + DAY)
    await put(here, AT, AT + DAY, OTHER)
    before = await found(there.segments)
    await keep(there, "/one", days)
    assert await here.segments.drop_expired(AT + 2 * DAY) == [OTHER]
    assert not any(name.endswith("20001") for name in await partitions(database))
    stored = await found(there.segments)
    assert [one.frame for one in stored] == [one.frame for one in before]
    assert list(await there.segments.read(GROUP, stored)) == [b"%d" % (AT + at) for at in range(450)]
    assert await count_of(there) == 900
    assert await found(there.segments, OTHER) == []
    with pytest.raises(SegmentsUnavailable):
        await there.segments.read(GROUP, before)
    with pytest.raises(SegmentsUnavailable):
        await there.segments.data_keys(GROUP, before)


async def test_what_is_kept_longer_since_a_moment_ago_is_not_dropped(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its retention has become longer after the job moved what it found: the next run moves it."""
    here, there = processes
    await put(here, AT, AT + DAY)
    move = frame_retention._move_kept

    async def move_too_early(session: Session, day: int, now: int) -> None:
        await move(session, day, now)
        await keep(there, "/one", None)

    with monkeypatch.context() as patched:
        patched.setattr(frame_retention, "_move_kept", move_too_early)
        assert await here.segments.drop_expired(AT + 2 * DAY) == []
    assert len(await found(there.segments)) == 1
    assert await here.segments.drop_expired(AT + 2 * DAY) == []
    (stored,) = await found(there.segments)
    assert (stored.segment, list(await there.segments.read(GROUP, [stored]))) == ("0", [b"%d" % AT])
    assert await count_of(there) == 2


async def test_a_program_that_reads_the_table_for_long(
    database: PostgresSettings, processes: tuple[Process, Process]
) -> None:
    """A partition is not dropped as long as it reads; frames are stored and found meanwhile."""
    here, there = processes
    await put(here, AT, AT + DAY)
    connection = await connect(database)
    async with connection.transaction():
        assert await connection.fetchval("SELECT count(*) FROM log_frame") == 1
        dropping = asyncio.create_task(here.segments.drop_expired(AT + 2 * DAY))
        while not dropping.done():
            await put(there, AT + 1, 0)
            assert await found(there.segments)
        assert await dropping == []
    await connection.close()
    assert await here.segments.drop_expired(AT + 2 * DAY) == [GROUP]
    assert await found(there.segments, start=AT, end=AT + 1) == []


async def test_others_read_and_store_while_partitions_are_dropped(
    processes: tuple[Process, Process],
) -> None:
    """It finds what does not expire each time, and stores into a partition that was dropped: that is made anew."""
    here, there = processes
    await put(here, AT, 0)
    over = False

    async def read() -> None:
        while not over:
            assert (await found(there.segments))[0].frame.first_at == AT
            assert await count_of(there) >= 2

    reading = asyncio.create_task(read())
    for number in range(8):
        await put(there, AT + number, AT + DAY)
        assert await here.segments.drop_expired(AT + 2 * DAY) == [GROUP]
    over = True
    await reading
    await put(there, AT + 9, AT + DAY)
    assert [one.frame.first_at for one in await found(here.segments)] == [AT, AT + 9]


async def test_deleting_and_storing_at_once_keep_the_sums(processes: tuple[Process, Process]) -> None:
    """A dead stream, while another process stores frames of others into the same partitions; then what has expired."""
    here, there = processes
    for at in range(450):
        await put(here, AT + at, DAY * (at % 2) * (AT // DAY + 1), stream=1)
    storing = [put(there, AT + at, DAY * (at % 2) * (AT // DAY + 1), stream=2) for at in range(450)]
    dead = frozenset((b"\x01" * 16,))
    await asyncio.gather(here.segments.apply_retention(GROUP, before=0, dead_streams=dead), *storing)
    assert len(await found(here.segments)) == 450
    summaries = await here.segments.summaries(GROUP)
    assert {stream: one.events for stream, one in summaries.items()} == {b"\x02" * 16: 900}
    await here.segments.apply_retention(GROUP, before=AT + 300 + DAY, dead_streams=frozenset())
    assert [one.frame.first_at for one in await found(there.segments)] == [AT + at for at in range(300, 450)]
    (left,) = (await there.segments.summaries(GROUP)).values()
    assert (left.first_at, left.last_at, left.events, left.size) == (AT + 300, AT + 449, 300, 9_000)


@pytest.mark.parametrize("worked", [True, False], ids=["committed", "not committed"])
async def test_an_unknown_outcome_is_settled(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch, *, worked: bool
) -> None:
    """The answer of the server is lost. What the caller is told is what the database holds, and sums know it, too."""
    here, there = processes
    await put(here, AT, 0)
    execute = asyncpg.Connection.execute

    async def lose_answer(self: asyncpg.Connection, query: str, *arguments: object, **options: object) -> str:
        if "INSERT INTO log_frame " not in query:
            return str(await execute(self, query, *arguments, **options))
        if worked:
            await execute(self, query, *arguments, **options)
        self.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(asyncpg.Connection, "execute", lose_answer)
    if worked:
        await put(here, AT + 1, 0)
    else:
        with pytest.raises(SegmentsUnavailable, match="were not stored"):
            await put(here, AT + 1, 0)
    monkeypatch.undo()
    await put(here, AT + 2, 0)
    expected = [AT, AT + 1, AT + 2] if worked else [AT, AT + 2]
    assert [one.frame.first_at for one in await found(there.segments)] == expected
    assert await count_of(there) == 2 * len(expected)


async def test_connections_that_end_while_frames_are_stored(
    database: PostgresSettings, processes: tuple[Process, Process]
) -> None:
    """What was acknowledged is there, once; what was refused is not."""
    here, there = processes
    acknowledged: list[int] = []
    cut = 0

    async def store(process: Process, at: int) -> None:
        while cut < 10 or not acknowledged:
            at += 1
            with suppress(SegmentsUnavailable):
                await put(process, at, 0)
                acknowledged.append(at)

    storing = [asyncio.create_task(store(process, AT + 100_000 * n)) for n, process in enumerate((here, there) * 4)]
    while not all(one.done() for one in storing):
        rows = await fetch(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'kmsd' AND state = 'active' AND query LIKE '%WITH forgotten%'",
        )
        cut += len(rows)
    await asyncio.gather(*storing)
    stored = [one.frame.first_at for one in await found(there.segments)]
    assert stored == sorted(acknowledged)
    assert await count_of(there) == 2 * len(acknowledged)


async def test_all_that_waits_fails_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """One search for a server that is away, and not one for each statement. Once it is back, frames are stored."""
    server = new_cluster()
    try:
        settings = PostgresSettings(server.database().url, connect_seconds=1.0)
        await schema.create(settings)
        store = await PostgresStore.open(settings)
        process = Process(store, PostgresSegments.of(store))
        await put(process, AT, 0)
        monkeypatch.setattr(frame_lane, "MAX_BYTES", 1)
        searches, search = 0, Connector.connect

        async def counted(self: Connector, count: int = 1) -> Sequence[Server]:
            nonlocal searches
            searches += 1
            return await search(self, count)

        server.kill()
        process.store.lane.end()
        monkeypatch.setattr(Connector, "connect", counted)
        ended = await asyncio.gather(*(put(process, AT + at, 0) for at in range(1, 50)), return_exceptions=True)
        assert {type(one) for one in ended} == {SegmentsUnavailable}
        assert searches == 1
        await asyncio.to_thread(server.start)
        await put(process, AT + 50, 0)
        assert [one.frame.first_at for one in await found(process.segments)] == [AT, AT + 50]
        await process.segments.close()
        await store.close()
    finally:
        server.stop()


async def test_a_partition_that_cannot_be_made(database: PostgresSettings, processes: tuple[Process, Process]) -> None:
    """The frame is refused. What comes afterwards is stored for good: no transaction was left open."""
    here, there = processes
    await put(here, AT, 0)
    connection = await connect(database)
    await connection.execute("CREATE TABLE log_frame_sum_20001 (x int)")
    with pytest.raises(SegmentsUnavailable):
        await put(here, AT + 1, AT + DAY)
    await put(here, AT + 2, 0)
    assert [one.frame.first_at for one in await found(there.segments)] == [AT, AT + 2]
    await connection.execute("DROP TABLE log_frame_sum_20001")
    await connection.close()
    await put(here, AT + 3, AT + DAY)
    assert len(await found(there.segments)) == 3


async def test_outcomes_do_not_pile_up(database: PostgresSettings, processes: tuple[Process, Process]) -> None:
    """A process leaves the outcome of its last statement alone."""
    here, _ = processes
    ((before,),) = await fetch(database, "SELECT count(*) FROM outcome")
    for at in range(20):
        await put(here, AT + at, 0)
    assert await fetch(database, "SELECT count(*) FROM outcome") == [(int(str(before)) + 1,)]


async def test_a_removed_node_stores_nothing(database: PostgresSettings, processes: tuple[Process, Process]) -> None:
    """Also if its request had begun before."""
    here, _ = processes
    node = Node("a" * 32, "node-a", NOW, NOW, "0.1.0")
    async with here.store.write() as transaction:
        await transaction.insert_node(node)
    store = await PostgresStore.open(database, node.node_id)
    removed = Process(store, PostgresSegments.of(store))
    await put(removed, AT, 0)
    async with here.store.write() as transaction:
        await transaction.delete_node(node.node_id)
    with pytest.raises(SegmentsUnavailable, match="no node of the database"):
        await put(removed, AT + 1, 0)
    with pytest.raises(SegmentsUnavailable, match="no node of the database"):
        await found(removed.segments)
    await removed.segments.close()
    await store.close()
    assert [one.frame.first_at for one in await found(here.segments)] == [AT]
    assert await count_of(here) == 2


async def test_a_cancelled_caller_cancels_no_statement(processes: tuple[Process, Process]) -> None:
    """Those that wait with it are stored, and so is its own frame."""
    here, there = processes
    waiting = [asyncio.create_task(put(here, AT + at, 0)) for at in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[7].cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [index for index, one in enumerate(ended) if one is not None] == [0, 7]
    await here.segments.close()
    assert len(await found(there.segments)) == 20
