"""The database in a backup, which is a SQLite file whichever database the daemon uses."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kmsd.adapters.sql.tables import move
from kmsd.adapters.sqlite import snapshot
from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.app import Components, trail_node
from kmsd.cloudwatch_logs import copying
from kmsd.cloudwatch_logs.segments.store import FileSegments
from kmsd.config.sections import Config
from kmsd.database import database_of, first_node, open_segments

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.ports import LogReader, Segments


async def save(config: Config, target: Path) -> None:
    """Copy the database, as of one moment and while others write to it, to a new file; durable on return.

    Raises `StoreUnavailable`, also for a damaged copy, and OSError.
    """
    if not config.store.url:
        await asyncio.to_thread(snapshot.take, config.database, target)
        return
    async with database_of(config).tables() as tables, SqliteDatabase(target).creating() as empty:
        await move(tables, empty, trail_node(config).node_id)
    await asyncio.to_thread(_check, target)


def _check(target: Path) -> None:
    snapshot.check(target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def save_logs(components: Components, folder: Path) -> Path:
    """Return the folder of the log segments; those of PostgreSQL are copied into `folder` first.

    Raises `SegmentsUnavailable`, `SegmentDamaged`, `StoreUnavailable`.
    """
    if not components.config.store.url:
        return components.config.logs_dir
    target = FileSegments(folder)
    try:
        now = components.pipeline.clock.now()
        await copying.copy(await components.store.read(), components.segments, target, now)
    finally:
        await target.close()
    return folder


async def load(config: Config, source: Path, logs: Path) -> None:
    """Create the configured PostgreSQL database from a file and log segments, with this host as its first node.

    Raises `StoreConflict` if it has kmsd's tables, `StoreUnavailable`, `ConfigError`.
    """
    async with SqliteDatabase(source).tables() as tables, database_of(config).creating() as empty:
        await move(tables, empty, "")
    async with SqliteDatabase(source).open() as old:
        segments = FileSegments(logs)
        try:
            await fill_in(config, await old.read(), segments)
        finally:
            await segments.close()


async def fill_in(config: Config, reader: LogReader, segments: Segments) -> None:
    """Copy log events into a PostgreSQL that has all else; then make this host its first node.

    Without a node the database refuses every host, so nothing incomplete is served. Raises as `load`.
    """
    async with database_of(config).open_before_joining() as store:
        target = open_segments(config, store)
        try:
            await copying.copy(reader, segments, target, datetime.now(UTC))
        finally:
            await target.close()
        async with store.write() as transaction:
            await transaction.insert_node(first_node(config))
