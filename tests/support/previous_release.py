"""Databases as older releases made them: the same rows, in the schema of an earlier migration level."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kmsd.adapters.sqlite import connection


def set_back(database: Path, level: int) -> None:
    """Make the database what it would be, had only the first `level` migrations been run; rows keep what fits there."""
    known = connection.migrations()
    older = database.with_suffix(".older")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "migrations", lambda: known[:level])
        connection.create(older)
    target = sqlite3.connect(older, isolation_level=None)
    target.execute("PRAGMA foreign_keys = OFF")
    target.execute("ATTACH ? AS newer", (str(database),))
    tables = [row[0] for row in target.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
    for table in tables:
        kept = {row[1] for row in target.execute(f"PRAGMA newer.table_info({table})")}
        older_columns = [row[1] for row in target.execute(f"PRAGMA main.table_info({table})")]
        columns = ", ".join(column for column in older_columns if column in kept)
        target.execute(f"DELETE FROM main.{table}")  # noqa: S608 (names out of the database itself)
        target.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")  # noqa: S608 (as above)
    target.execute("DETACH newer")
    target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    target.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
        Path(f"{older}{suffix}").unlink(missing_ok=True)
    older.rename(database)


def mark(database: Path, version: int) -> None:
    """Have the database say that it has this schema version."""
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute(f"PRAGMA user_version = {version}")
    writer.close()
