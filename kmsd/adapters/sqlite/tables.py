"""Tables of a SQLite database as a whole."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from kmsd.adapters.sql.row_mapping import Row
from kmsd.adapters.sql.tables import BATCH, TablesOfDatabase, listed, quoted
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.connection import translated
from kmsd.linux.files import sync_folder
from kmsd.ports import StoreTimeout


class SqliteTables(TablesOfDatabase):
    """All tables, on one connection that is in a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def columns(self, table: str) -> Mapping[str, bool]:
        with translated():
            found = self._connection.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY pk = 0, pk", (table,))
            return {name: place > 0 for name, place in found.fetchall()}

    async def rows(self, table: str, columns: Sequence[str], order: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        with translated():
            cursor = self._connection.execute(f"SELECT {listed(columns)} FROM {quoted(table)} ORDER BY {listed(order)}")
        while True:
            with translated():
                batch = cursor.fetchmany(BATCH)
            yield batch
            if len(batch) < BATCH:
                return

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        marks = ", ".join("?" * len(columns))
        with translated():
            self._connection.executemany(f"INSERT INTO {quoted(table)} ({listed(columns)}) VALUES ({marks})", rows)

    async def count(self, table: str) -> int:
        with translated():
            (found,) = self._connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()
            return int(found)

    async def clear(self, table: str) -> None:
        with translated():
            self._connection.execute(f"DELETE FROM {quoted(table)}")


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, and hold one transaction until the end of the block. Raises the port's errors."""
    opened = connection.connect(path, busy_seconds=30)
    try:
        with translated():
            opened.execute("BEGIN IMMEDIATE")
        yield opened
        with translated():
            opened.execute("COMMIT")
    finally:
        opened.close()


@contextmanager
def without_triggers(path: Path) -> Iterator[sqlite3.Connection]:
    """Open `transaction`, in which no trigger runs."""
    with transaction(path) as opened:
        with translated():
            query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
            triggers = opened.execute(query).fetchall()
            for name, _ in triggers:
                opened.execute(f"DROP TRIGGER {quoted(name)}")
        yield opened
        with translated():
            for _, sql in triggers:
                opened.execute(sql)


def retire(path: Path) -> Path:
    """Give the database another name, under which no daemon looks for it. Return that. Raises the port's errors."""
    opened = connection.connect(path, busy_seconds=30)
    try:
        with translated():
            (busy, _, _) = opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        opened.close()
    if busy:
        raise StoreTimeout("another process uses the database")
    name = next(name for name in _retired_names(path) if not name.exists())
    path.rename(name)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    sync_folder(path.parent)
    return name


def _retired_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.moved")
    for number in count(2):
        yield path.with_name(f"{path.name}.moved-{number}")
