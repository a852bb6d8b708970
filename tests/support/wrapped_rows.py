"""Rows of wrapped material, as somebody changes them who may write to the database and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

_MATERIALS = "(SELECT material_id FROM material WHERE key_id = ?)"
TABLES = {
    "token_object": f"object_id IN {_MATERIALS}",
    "key": "key_id = ?",
    "material": "key_id = ?",
    "imported_material": "key_id = ?",
    "wrapped_material": f"material_id IN {_MATERIALS}",
}
"""Tables with what belongs to a key, and its rows in each."""
KEYS = {"token_object": "object_id", "key": "key_id", **dict.fromkeys(list(TABLES)[2:], "material_id")}
"""The column that names a row of each."""
Row = dict[str, Any]


class Rows:
    """The database of a daemon, which may be running."""

    def __init__(self, database: Path) -> None:
        self._database = database

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits at the end of the block, without the checks of foreign keys."""
        with closing(sqlite3.connect(self._database, timeout=30)) as connection, connection:
            yield connection

    def change(self, statement: str, *rows: dict[str, Any], **values: Any) -> None:
        """Run a statement that changes at least one row, with `values`, or with each of `rows` in one transaction."""
        with self.opened() as connection:
            for row in rows or (values,):
                assert connection.execute(statement, row).rowcount > 0, statement

    def select(self, query: str, *values: Any) -> list[Row]:
        """The rows that a query finds."""
        with self.opened() as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

    def material_ids(self, key_id: str) -> list[bytes]:
        """The materials of a key, oldest first."""
        query = "SELECT material_id FROM material WHERE key_id = ? ORDER BY created_at"
        return [row["material_id"] for row in self.select(query, key_id)]

    def wrapped(self, material_id: bytes) -> Row:
        """The row of a wrapped material."""
        (found,) = self.select("SELECT * FROM wrapped_material WHERE material_id = ?", material_id)
        return found

    @contextmanager
    def written(self, row: Row) -> Iterator[None]:
        """Put a row in the place of the one with its id, until the end of the block."""
        before = self.wrapped(row["material_id"])
        self._write(row)
        try:
            yield
        finally:
            self._write(before)

    def _write(self, row: Row) -> None:
        assignments = ", ".join(f"{column} = :{column}" for column in row)
        self.change(f"UPDATE wrapped_material SET {assignments} WHERE material_id = :material_id", **row)  # noqa: S608 (columns of the table)

    def copy_of(self, key_id: str) -> dict[str, list[Row]]:
        """All rows of a key and its materials, as an old copy of the database has them."""
        return {table: self.select(f"SELECT * FROM {table} WHERE {where}", key_id) for table, where in TABLES.items()}  # noqa: S608 (constants)

    def replay(self, copy: dict[str, list[Row]]) -> None:
        """Insert the rows of a copy; those that exist are replaced."""
        with self.opened() as connection:
            for table, rows in copy.items():
                for row in rows:
                    columns, marks = ", ".join(row), ", ".join(f":{column}" for column in row)
                    connection.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", row)  # noqa: S608 (columns of the table)

    def remove(self, copy: dict[str, list[Row]]) -> None:
        """Remove the rows of a copy."""
        with self.opened() as connection:
            for table, rows in reversed(copy.items()):
                connection.executemany(f"DELETE FROM {table} WHERE {KEYS[table]} = :{KEYS[table]}", rows)  # noqa: S608 (constants)
