"""Open, create and migrate a PostgreSQL database."""

from __future__ import annotations

from importlib import resources

import asyncpg

from kmsd.adapters.postgres.errors import translated
from kmsd.ports import StoreConflict, StoreMissing, StoreUnfit

MIGRATIONS = resources.files("kmsd.adapters.postgres") / "migrations"
APPLICATION = "kmsd"
_CONNECT_SECONDS = 5.0
_SESSION = {
    "application_name": APPLICATION,
    # A process or host that vanishes in a transaction holds its locks this long.
    "idle_in_transaction_session_timeout": "2s",
    "tcp_user_timeout": "2s",
    "lock_timeout": "5s",
    "default_transaction_isolation": "read committed",
}
_LOCK = 0x6B6D7364
"""Advisory lock of migrations: `kmsd` in ASCII."""


async def connect(url: str) -> asyncpg.Connection:
    """Connect to the server that accepts writes. Raises `StoreUnavailable`, `StoreUnfit`.

    `url` may name several hosts: `postgresql://user@a:5432,b:5432/kmsd`.
    """
    with translated():
        return await asyncpg.connect(
            url, timeout=_CONNECT_SECONDS, server_settings=_SESSION, target_session_attrs="read-write"
        )


def migrations() -> list[tuple[int, str]]:
    """Return all migrations as (version, SQL), in order."""
    files = sorted((entry.name, entry) for entry in MIGRATIONS.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), entry.read_text()) for name, entry in files]


async def version(connection: asyncpg.Connection) -> int:
    """Return the schema version; 0 for a database without kmsd's tables."""
    with translated():
        if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
            return 0
        return int(await connection.fetchval("SELECT version FROM schema_version"))


async def create(url: str) -> None:
    """Create kmsd's tables in an empty database. Raises `StoreConflict` if they exist."""
    connection = await connect(url)
    try:
        if await version(connection):
            raise StoreConflict("the database has kmsd's tables already")
        await _apply(connection)
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection) -> None:
    with translated():
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
            present = await connection.fetchval("SELECT version FROM schema_version") or 0
            for number, script in migrations():
                if number > present:
                    await connection.execute(script)
            await connection.execute("DELETE FROM schema_version")
            await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", migrations()[-1][0])


async def require_version(connection: asyncpg.Connection) -> None:
    """Raise `StoreMissing` for a database without tables, and `StoreUnfit` for one of another version."""
    present, known = await version(connection), migrations()[-1][0]
    if present == 0:
        raise StoreMissing("the database has no tables of kmsd: run `kmsd init`")
    if present != known:
        raise StoreUnfit(f"the database has schema version {present}, this kmsd needs {known}")
