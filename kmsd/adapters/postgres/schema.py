"""Create and migrate kmsd's tables in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import resources
from typing import Any

from kmsd.adapters.postgres.access import RAISE_NUMBER, Member, numbered
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.adapters.sql.first_start import first_start
from kmsd.ports import StoreConflict, StoreMissing, StoreUnfit

MIGRATIONS = resources.files("kmsd.adapters.postgres") / "migrations"
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


async def open_session(connector: Connector, seconds: float) -> Session:
    """Connect to the server that accepts writes. Raises `StoreUnavailable`, `StoreUnfit` for tables of another version.

    `seconds` is the deadline of a statement.
    """
    (server,) = await connector.connect()
    session = Session(server, seconds)
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


async def version(session: Session) -> int:
    """Return the schema version; 0 for a database without kmsd's tables. Raises `StoreUnavailable`."""
    if await _value(session, "SELECT to_regclass('schema_version')::text") is None:
        return 0
    return int(await _value(session, "SELECT version FROM schema_version"))


async def _value(session: Session, sql: str) -> Any:
    """Return the value of a statement that has one row; None if it has none."""
    rows = await session.fetch(sql)
    return rows[0][0] if rows else None


async def create(settings: PostgresSettings) -> None:
    """Create kmsd's tables in an empty database.

    Raises `StoreConflict` if they exist, `StoreUnfit` if the database is not empty or not in UTF-8.
    """
    async with connected(settings, _MIGRATION_SECONDS) as session:
        if await version(session):
            raise StoreConflict("the database has kmsd's tables already")
        if await _value(session, "SHOW server_encoding") != "UTF8":
            raise StoreUnfit(f"{settings.url} is not in UTF-8: createdb --encoding UTF8 --template template0")
        if await _value(session, _OTHERS):
            raise StoreUnfit(f"{settings.url} holds tables of another program: kmsd needs a database of its own")
        await _apply(session)


async def migrate(settings: PostgresSettings, member: Member) -> int:
    """Bring the tables up to date, in one transaction. Return the number of steps applied.

    Raises `StoreMissing`, `StoreUnavailable`, and `StoreUnfit` for tables that a newer kmsd has written, or whose nodes
    are other hosts.
    """
    async with connected(settings, _MIGRATION_SECONDS) as session:
        present = await version(session)
        if present == 0 or present > newest():
            require_known(present)
        if present >= _NODES_SINCE and await _value(session, "SELECT EXISTS (SELECT FROM node)"):
            rows = await session.fetch("SELECT EXISTS (SELECT FROM node WHERE node_id = $1)", member.node_id)
            member.require_known(is_known=rows[0][0])
        return await _apply(session)


async def _apply(session: Session) -> int:
    """Apply the remaining migrations; return their number."""
    applied = 0
    await session.execute("BEGIN")
    await session.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await session.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
    present = await _value(session, "SELECT version FROM schema_version") or 0
    for number, script in migrations():
        if number > present:
            await session.execute(script)
            applied += 1
    await session.execute("DELETE FROM schema_version")
    await session.execute("INSERT INTO schema_version (version) VALUES ($1)", newest())
    await session.execute_confirmed("COMMIT")
    return applied


def require_known(present: int) -> None:
    """Raise `StoreMissing` for a database without tables (version 0), `StoreUnfit` for one of another version."""
    known = newest()
    if present == 0:
        raise StoreMissing("the database has no tables of kmsd: run `kmsd init`")
    if present != known:
        remedy = "run `kmsd migrate`" if present < known else "it was written by a newer release; upgrade kmsd"
        raise StoreUnfit(f"the database has schema version {present}, this kmsd needs {known}: {remedy}")


async def date_first_start(settings: PostgresSettings, now: datetime) -> None:
    """Set the times that depend on the first start, as `kmsd.adapters.sql.first_start` says."""
    async with connected(settings) as session:
        await session.execute("BEGIN")
        await session.execute(RAISE_NUMBER)
        for statement, value in first_start(now):
            await session.execute(numbered(statement), value)
        await session.execute_confirmed("COMMIT")
