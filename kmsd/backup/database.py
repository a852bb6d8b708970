"""The database in a backup, which is a SQLite file whichever database the daemon uses."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from kmsd.adapters.sql.tables import move
from kmsd.adapters.sqlite import snapshot
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.app import trail_node
from kmsd.config.sections import Config
from kmsd.database import database_of, first_node


async def save(config: Config, target: Path) -> None:
    """Copy the database, as of one moment and while others write to it, to a new file; durable on return.

    Raises `StoreUnavailable`, also for a damaged copy, and OSError.
    """
    if not config.store.url:
        await asyncio.to_thread(snapshot.take, config.database, target)
        return
    async with database_of(config).tables() as tables, SqliteDatabase(target).creating(None) as empty:
        await move(tables, empty, trail_node(config).node_id)
    await asyncio.to_thread(_check, target)


def _check(target: Path) -> None:
    snapshot.check(target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def load(config: Config, source: Path) -> None:
    """Create the configured PostgreSQL database from a file, with this host as its first node.

    Raises `StoreConflict` if it has kmsd's tables, `StoreUnavailable`, `ConfigError`.
    """
    async with SqliteDatabase(source).tables() as tables, database_of(config).creating(first_node(config)) as empty:
        await move(tables, empty, "")
