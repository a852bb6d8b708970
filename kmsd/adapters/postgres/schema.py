"""Create and migrate kmsd's tables in a PostgreSQL database."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import resources
from typing import Any

import msgspec

from kmsd.adapters.postgres import indexes
from kmsd.adapters.postgres.access import RAISE_NUMBER, Member, numbered
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql.first_start import first_start
from kmsd.ports import StoreConflict, StoreMissing, StoreUnfit

MIGRATIONS = resources.files("kmsd.adapters.postgres") / "migrations"
_COMPATIBLE = re.compile(r"-- Compatible with (\d+)\.")
"""First line of a migration that releases of an earlier schema version can go on with."""
_LOCK = 0x6B6D7364
"""Advisory lock of migrations: `kmsd` in ASCII."""
_NODES_SINCE = 14
"""First schema version with a table of nodes."""
_MIGRATION_SECONDS = 3600.0
"""Deadline of a statement that migrates."""
_OTHERS = """
    SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = current_schema() AND relkind IN ('r', 'p', 'v', 'm')"""


@asynccontextmanager
async def connected(settings: PostgresSettings, seconds: float | None = None) -> AsyncIterator[Session]:
    """Connect to the server that accepts writes, for one task. Raises `StoreUnavailable`, `StoreUnfit`.

    `seconds` is the deadline of a statement; None: the configured one.
    """
    (server,) = await Connector(settings).connect()
    session = Session(server, seconds or settings.call_seconds)
    try:
        yield session
    finally:
        session.end()


class SchemaVersion(msgspec.Struct, frozen=True):
    """Version of the tables of a database."""

    number: int
    """0: there are none."""
    compatible: int
    """Releases that write this version, or a later one, can use the tables: what came later only adds."""


async def open_session(
    connector: Connector, seconds: float, on_waiting: Callable[[], object] = lambda: None
) -> Session:
    """Connect to the server that accepts writes. Raises `StoreUnavailable`, `StoreUnfit` for tables of another version.

    `seconds` is the deadline of a statement; `on_waiting` as for `Session`.
    """
    (server,) = await connector.connect()
    session = Session(server, seconds, on_waiting)
    try:
        require_known(await version(session))
    except BaseException:
        session.end()
        raise
    return session


def migrations() -> list[tuple[int, str]]:
    """Return all migrations as (version, SQL), in order."""
    files = sorted((entry.name, entry) for entry in MIGRATIONS.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), entry.read_text()) for name, entry in files]


def newest() -> int:
    """Return the schema version that this release writes."""
    return migrations()[-1][0]


def _compatible() -> int:
    """Return the earliest schema version whose releases can use the tables of this one."""
    found = ((number, _COMPATIBLE.match(script)) for number, script in migrations())
    return max(number if declared is None else int(declared[1]) for number, declared in found)


async def version(session: Session) -> SchemaVersion:
    """Return the version of the tables. Raises `StoreUnavailable`."""
    if await _value(session, "SELECT to_regclass('schema_version')::text") is None:
        return SchemaVersion(0, 0)
    # Tables of a release that knew nothing of `compatible` lack the column.
    rows = await session.fetch("SELECT version, (to_jsonb(one) ->> 'compatible')::bigint FROM schema_version AS one")
    number, compatible = rows[0]
    return SchemaVersion(number, number if compatible is None else compatible)


async def _value(session: Session, sql: str) -> Any:
    """Return the value of a statement that has one row; None if it has none."""
    rows = await session.fetch(sql)
    return rows[0][0] if rows else None


async def create(settings: PostgresSettings) -> None:
    """Create kmsd's tables in an empty database.

    Raises `StoreConflict` if they exist, `StoreUnfit` if the database is not empty or not in UTF-8.
    """
    async with creating(settings):
        pass


@asynccontextmanager
async def creating(settings: PostgresSettings) -> AsyncIterator[Session]:
    """Create the tables as `create` does, and commit them at the end of the block, with what it writes."""
    async with connected(settings, _MIGRATION_SECONDS) as session:
        if (await version(session)).number:
            raise StoreConflict("the database has kmsd's tables already")
        if await _value(session, "SHOW server_encoding") != "UTF8":
            raise StoreUnfit(f"{settings.url} is not in UTF-8: createdb --encoding UTF8 --template template0")
        if await _value(session, _OTHERS):
            raise StoreUnfit(f"{settings.url} holds tables of another program: kmsd needs a database of its own")
        await _apply(session)
        yield session
        await session.execute_confirmed("COMMIT")


async def migrate(settings: PostgresSettings, member: Member) -> int:
    """Bring the tables up to date, in one transaction. Return the number of steps applied; 0 for newer ones.

    Raises `StoreMissing`, `StoreUnavailable`, and `StoreUnfit` for tables that a newer kmsd has written, or whose nodes
    are other hosts.
    """
    async with connected(settings, _MIGRATION_SECONDS) as session:
        present = await version(session)
        if present.number == 0 or present.number > newest():
            require_known(present)
            return 0
        if present.number >= _NODES_SINCE and await _value(session, "SELECT EXISTS (SELECT FROM node)"):
            rows = await session.fetch("SELECT EXISTS (SELECT FROM node WHERE node_id = $1)", member.node_id)
            member.require_known(is_known=rows[0][0])
        await indexes.acquire_turn(session, _LOCK)
        present = await version(session)
        await indexes.build(session, [script for number, script in migrations() if number > present.number])
        applied = await _apply(session)
        await session.execute_confirmed("COMMIT")
        return applied


@asynccontextmanager
async def reading(settings: PostgresSettings) -> AsyncIterator[Session]:
    """Open a transaction that reads all as of one moment. Raises `StoreUnavailable`, `StoreMissing`, `StoreUnfit`."""
    async with connected(settings, _MIGRATION_SECONDS) as session:
        require_known(await version(session))
        await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield session


async def delete_nodes(settings: PostgresSettings) -> None:
    """Delete all nodes, so that the database refuses every host. Raises `StoreUnavailable`."""
    async with connected(settings) as session:
        await session.execute(f"BEGIN; {RAISE_NUMBER}; DELETE FROM node")
        await session.execute_confirmed("COMMIT")


async def _apply(session: Session) -> int:
    """Begin a transaction, and apply the remaining migrations; return their number."""
    applied = 0
    await session.execute("BEGIN")
    await session.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await session.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
    present = await _value(session, "SELECT version FROM schema_version") or 0
    for number, script in migrations():
        if number > present:
            if present and not applied:
                # No other process writes meanwhile: none can have locked what the next statements wait for.
                await session.execute(RAISE_NUMBER)
            await session.execute(script)
            applied += 1
    if applied:
        await session.execute("ALTER TABLE schema_version ADD COLUMN IF NOT EXISTS compatible BIGINT")
        await session.execute("DELETE FROM schema_version")
        values = (newest(), _compatible())
        await session.execute("INSERT INTO schema_version (version, compatible) VALUES ($1, $2)", *values)
    return applied


def require_known(present: SchemaVersion) -> None:
    """Raise `StoreMissing` for a database without tables, `StoreUnfit` for one whose tables this release cannot use."""
    known = newest()
    if present.number == 0:
        raise StoreMissing("the database has no tables of kmsd: run `kmsd init`")
    if present.number < known or present.compatible > known:
        remedy = "run `kmsd migrate`" if present.number < known else "it was written by a newer release; upgrade kmsd"
        raise StoreUnfit(f"the database has schema version {present.number}, this kmsd needs {known}: {remedy}")


async def date_first_start(settings: PostgresSettings, now: datetime) -> None:
    """Set the times that depend on the first start, as `kmsd.adapters.sql.first_start` says."""
    async with connected(settings) as session:
        await session.execute("BEGIN")
        await session.execute(RAISE_NUMBER)
        for statement, value in first_start(now):
            await session.execute(numbered(statement), value)
        await session.execute_confirmed("COMMIT")
