"""Tables of a PostgreSQL database as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from kmsd.adapters.postgres.session import Session
from kmsd.adapters.sql.row_mapping import Row
from kmsd.adapters.sql.tables import BATCH, TablesOfDatabase, listed, quoted
from kmsd.ports import StoreUnfit

_COLUMNS = """
    SELECT attname, array_position(indkey::int2[], attnum) AS place
    FROM pg_attribute LEFT JOIN pg_index ON indrelid = attrelid AND indisprimary
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY place NULLS LAST"""


class PostgresTables(TablesOfDatabase):
    """All tables, on one session that is in a transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def columns(self, table: str) -> Mapping[str, bool]:
        found = await self._session.fetch(_COLUMNS, quoted(table))
        return {row[0]: row[1] is not None for row in found}

    async def rows(self, table: str, columns: Sequence[str], order: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        select = f"SELECT {listed(columns)} FROM {quoted(table)} ORDER BY {listed(order)}"
        cursor = f"moved_{table}"  # not one name for all: the driver remembers the columns of a statement by its text
        await self._session.execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {select}")
        while True:
            batch = [tuple(row) for row in await self._session.fetch(f"FETCH {BATCH} FROM {cursor}")]
            yield batch
            if len(batch) < BATCH:
                break
        await self._session.execute(f"CLOSE {cursor}")

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        for row in rows:
            if any(isinstance(value, str) and "\0" in value for value in row):
                where = f"the row of {table} with {columns[0]} {row[0]!r}"
                raise StoreUnfit(f"{where} has a text with U+0000, which PostgreSQL cannot store: change it first")
        await self._session.copy_in(table, columns, rows)

    async def count(self, table: str) -> int:
        return int((await self._session.fetch(f"SELECT count(*) FROM {quoted(table)}"))[0][0])

    async def clear(self, table: str) -> None:
        await self._session.execute(f"DELETE FROM {quoted(table)}")


async def set_triggers(session: Session, tables: Sequence[str], *, on: bool) -> None:
    """Let the triggers of tables run or not, those of foreign keys excepted."""
    for table in tables:
        await session.execute(f"ALTER TABLE {quoted(table)} {'ENABLE' if on else 'DISABLE'} TRIGGER USER")
