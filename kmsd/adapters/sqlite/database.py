"""The SQLite database as a whole.

The store and the statistics are imported where they are used: `kmsd serve` needs neither in its parent process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kmsd.adapters.sql.database import Database
from kmsd.adapters.sqlite import connection

if TYPE_CHECKING:
    from kmsd.adapters.sql.statistics import Statistics
    from kmsd.adapters.sql.tables import TablesOfDatabase
    from kmsd.cloudwatch_logs.ports import LogStore


class SqliteDatabase(Database):
    """The database in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    async def exists(self) -> bool:
        return self._path.exists()

    async def create(self) -> None:
        connection.create(self._path)

    async def schema(self) -> int:
        return connection.schema(self._path)

    def newest(self) -> int:
        return connection.newest()

    async def migrate(self) -> int:
        return connection.migrate(self._path)

    async def date_first_start(self, now: datetime) -> None:
        connection.date_first_start(self._path, now)

    async def statistics(self, now: datetime) -> Statistics:
        from kmsd.adapters.sqlite import statistics  # noqa: PLC0415 (as above)

        return statistics.read(self._path, now)

    async def problems(self) -> Sequence[str]:
        return ()

    @asynccontextmanager
    async def tables(self) -> AsyncIterator[TablesOfDatabase]:
        from kmsd.adapters.sqlite.tables import SqliteTables, transaction  # noqa: PLC0415 (as above)

        with transaction(self._path) as opened:
            yield SqliteTables(opened)

    @asynccontextmanager
    async def creating(self) -> AsyncIterator[TablesOfDatabase]:
        from kmsd.adapters.sqlite.tables import SqliteTables, without_triggers  # noqa: PLC0415 (as above)

        with connection.creating(self._path) as new, without_triggers(new) as opened:
            yield SqliteTables(opened)

    async def retire(self) -> str:
        from kmsd.adapters.sqlite.tables import retire  # noqa: PLC0415 (as above)

        return f"{self._path} is now {retire(self._path)}"

    def open_before_joining(self, hsm: str | None = None) -> AbstractAsyncContextManager[LogStore]:  # noqa: ARG002
        return self.open()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LogStore]:
        from kmsd.adapters.sqlite.store import SqliteStore  # noqa: PLC0415 (as above)

        store = SqliteStore(self._path)
        try:
            yield store
        finally:
            await store.close()
