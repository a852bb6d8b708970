"""Statistics of a PostgreSQL database, read on a connection of their own."""

from __future__ import annotations

from datetime import datetime

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.access import CLOCK, GONE_SECONDS, numbered
from kmsd.adapters.postgres.connector import timeline_of
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.nodes import CLOCK_READING
from kmsd.adapters.sql.statistics import (
    DIFFERENT,
    DUE_AT,
    KEYS,
    OBJECTS,
    WRAPPED,
    ServerStatistics,
    Statistics,
    by_state,
)

_BEGIN = """
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL join_collapse_limit = 1; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"""
"""Begins a snapshot in which joins are done in the order in which they are written, by indexes.

The planner takes it that half of the domain keys are missing, and would read all keys to find that none is.
"""
_SERVER = """
    SELECT pg_walfile_name(pg_current_wal_lsn()), (pg_current_wal_lsn() - '0/0')::bigint,
        (SELECT count(*) FROM pg_stat_replication), current_setting('synchronous_standby_names') <> ''"""
_NODES = f"SELECT seen_at > {CLOCK} - {GONE_SECONDS * 1_000_000}, count(*) FROM node GROUP BY 1"


async def read(settings: PostgresSettings, node_id: str, now: datetime) -> Statistics:
    """Read the statistics, in one snapshot; the clock is that of this node. Raises `StoreUnavailable`."""
    instant = row_mapping.micros(now)
    async with schema.connected(settings) as session:
        schema.require_known(await schema.version(session))
        await session.execute(_BEGIN)
        different = [tuple(row) for query in DIFFERENT for row in await session.fetch(_own(query), instant)]
        keys = by_state([tuple(row) for row in await session.fetch(KEYS)], different)
        objects = {(token, status): count for token, status, count in await session.fetch(OBJECTS)}
        wrapped = {state: int(count) for state, count in await session.fetch(WRAPPED)}
        due = {job: (await session.fetch(query))[0][0] for job, query in DUE_AT.items()}
        clock = await session.fetch(numbered(CLOCK_READING), node_id)
        server = await _server(session)
        await session.execute("COMMIT")
    return Statistics(
        keys,
        objects,
        wrapped,
        {job: at / 1e6 for job, at in due.items() if at is not None},
        row_mapping.clock_reading(tuple(clock[0])) if clock else None,
        server,
    )


async def _server(session: Session) -> ServerStatistics:
    ((wal_file, wal_bytes, standbys, needs_standby),) = await session.fetch(_SERVER)
    nodes = dict.fromkeys(("alive", "silent"), 0)
    for is_alive, count in await session.fetch(_NODES):
        nodes["alive" if is_alive else "silent"] = count
    return ServerStatistics(timeline_of(wal_file), wal_bytes, standbys, needs_standby, nodes)


def _own(query: str) -> str:
    """Return a statement for PostgreSQL, which has no CROSS JOIN USING."""
    return numbered(query.replace("CROSS JOIN", "JOIN"))
