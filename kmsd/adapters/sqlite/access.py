"""Statements on one SQLite connection."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from kmsd.adapters.sql.access import SqlAccess
from kmsd.adapters.sqlite.connection import translated

if TYPE_CHECKING:
    from collections.abc import Collection

    from kmsd.adapters.sql.row_mapping import Row
    from kmsd.adapters.sqlite.process_liveness import LivenessLocks


class SqliteAccess(SqlAccess):
    """Runs statements on the calling thread. They take microseconds."""

    _clock = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    _json_object = "json_group_object"

    def __init__(self, connection: sqlite3.Connection, makers: LivenessLocks) -> None:
        super().__init__()
        self._connection = connection
        self._makers = makers

    async def _all(self, sql: str, *values: object) -> list[Row]:
        return self._rows(sql, *values)

    def _rows(self, sql: str, *values: object) -> list[Row]:
        with translated():
            return self._connection.execute(sql, values).fetchall()

    async def _one(self, sql: str, *values: object) -> Row | None:
        with translated():
            row: Row | None = self._connection.execute(sql, values).fetchone()
            return row

    async def _run(self, sql: str, *values: object) -> int:
        with translated():
            return self._connection.execute(sql, values).rowcount

    @property
    def _node(self) -> str:
        return ""

    @property
    def hsm(self) -> str:
        return ""

    @property
    def _maker(self) -> int:
        return self._makers.token

    async def _gone(self, makers: Collection[int | None]) -> Collection[int | None]:
        return {maker for maker in makers if self._makers.is_gone(maker)}
