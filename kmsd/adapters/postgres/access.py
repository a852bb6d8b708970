"""Statements on one PostgreSQL connection."""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from kmsd.adapters.postgres.errors import translated
from kmsd.adapters.sql.access import SqlAccess
from kmsd.ports import StoreUnavailable

if TYPE_CHECKING:
    import asyncpg

    from kmsd.adapters.sql.row_mapping import Row

_PLACEHOLDER = re.compile(r"\?(\d*)")


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """Return a statement with `$1`, `$2`, … for `?`, or for `?1`, `?2`, …"""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found[1] or count}"

    return _PLACEHOLDER.sub(number, sql)


class PostgresAccess(SqlAccess):
    """Runs statements one after the other."""

    def __init__(self, maker: int) -> None:
        super().__init__()
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._process = maker

    def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            raise StoreUnavailable("the connection to the database is lost")
        return self._connection

    async def _all(self, sql: str, *values: object) -> list[Row]:
        async with self._turn:
            with translated():
                return [tuple(row) for row in await self._connected().fetch(numbered(sql), *map(_plain, values))]

    async def _one(self, sql: str, *values: object) -> Row | None:
        async with self._turn:
            with translated():
                row = await self._connected().fetchrow(numbered(sql), *map(_plain, values))
        return None if row is None else tuple(row)

    async def _run(self, sql: str, *values: object) -> int:
        async with self._turn:
            with translated():
                status = await self._connected().execute(numbered(sql), *map(_plain, values))
        return int(status.rpartition(" ")[2]) if status[-1:].isdigit() else 0

    @property
    def _maker(self) -> int:
        return self._process

    def _is_gone(self, maker: int | None) -> bool:
        # A lost connection is no dead process. Unfinished intents are settled when they are old.
        return False


def _plain(value: object) -> object:
    """Return a value as asyncpg takes it for a column of numbers."""
    return int(value) if isinstance(value, bool) else value
