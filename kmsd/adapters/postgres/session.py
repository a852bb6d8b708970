"""A connection whose statements run to their end.

No statement is cancelled. asyncpg would send a cancel request, and a server that is asked to cancel a COMMIT that waits
for its standby reports success, with no more than a warning. The deadline of a statement ends the connection instead.

A statement may wait for long, for another transaction above all. Whether the server still answers is found out earlier,
by a question on another connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from kmsd.adapters.postgres.errors import translated
from kmsd.ports import StoreUnavailable

if TYPE_CHECKING:
    import asyncpg

    from kmsd.adapters.postgres.connector import Server

_Result = TypeVar("_Result")
_WARNING = "01000"
"""SQLSTATE of "canceling wait for synchronous replication". Its text is in the server's language."""


WAITING_SECONDS = 0.5
"""Seconds without an answer to a statement after which `on_waiting` is called."""


class Session:
    """One connection."""

    def __init__(self, server: Server, seconds: float, on_waiting: Callable[[], object] = lambda: None) -> None:
        """`seconds` is the deadline of each statement. `on_waiting` asks elsewhere if the server still answers."""
        self._on_waiting = on_waiting
        self._connection, self._seconds = server.connection, seconds
        self.has_synchronous_standbys = server.has_synchronous_standbys
        self._is_warned = self._is_late = False
        self._connection.add_log_listener(self._on_message)

    @property
    def is_lost(self) -> bool:
        """True if the connection has ended."""
        return bool(self._connection.is_closed())

    @property
    def is_in_transaction(self) -> bool:
        """True between BEGIN and COMMIT or ROLLBACK."""
        return not self.is_lost and bool(self._connection.is_in_transaction())

    def end(self) -> None:
        """End the connection at once. A statement that is running raises `StoreUnavailable`."""
        self._connection.terminate()

    async def fetch(self, sql: str, *values: object) -> Sequence[asyncpg.Record]:
        """Return all rows. Raises the port's errors."""
        rows: Sequence[asyncpg.Record] = await self._finish(self._require().fetch(sql, *values))
        return rows

    async def execute(self, sql: str, *values: object) -> str:
        """Run a statement, or several without values; return the server's command tag. Raises the port's errors."""
        return str(await self._finish(self._require().execute(sql, *values)))

    async def copy_in(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Insert many rows by COPY. Raises the port's errors."""
        await self._finish(self._require().copy_records_to_table(table, records=rows, columns=columns))

    async def ask(self, sql: str, *values: object) -> Sequence[asyncpg.Record]:
        """Run `fetch` for half the processor time, from a task that is never cancelled.

        Raises `StoreUnavailable` if the server did not wait for its standby as it should.
        """
        self._is_warned = False
        deadline = asyncio.get_running_loop().call_later(self._seconds, self._give_up)
        try:
            with self._translated():
                rows: Sequence[asyncpg.Record] = await self._require().fetch(sql, *values)
        finally:
            deadline.cancel()
        self._require_replication()
        return rows

    async def fetch_confirmed(self, sql: str, *values: object) -> Sequence[asyncpg.Record]:
        """Call `fetch`. Raises `StoreUnavailable` if the server did not wait for its standby as it should."""
        self._is_warned = False
        rows = await self.fetch(sql, *values)
        self._require_replication()
        return rows

    async def execute_confirmed(self, sql: str, *values: object) -> str:
        """Call `execute`. Raises `StoreUnavailable` if the server did not wait for its standby as it should."""
        self._is_warned = False
        tag = await self.execute(sql, *values)
        self._require_replication()
        return tag

    def _require(self) -> asyncpg.Connection:
        if self.is_lost:
            raise StoreUnavailable("the connection to the database is lost")
        return self._connection

    def _require_replication(self) -> None:
        if self._is_warned:
            self.end()
            raise StoreUnavailable("the server did not wait for its standby: if that has it, is not known")

    def _on_message(self, _: asyncpg.Connection, message: asyncpg.PostgresLogMessage) -> None:
        # The driver calls this before the statement returns: the warning precedes the server's last message.
        self._is_warned = self._is_warned or message.sqlstate == _WARNING

    async def _finish(self, statement: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a statement to its end, or to its deadline, even if the caller is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._seconds, self._give_up)
        waiting = loop.call_later(WAITING_SECONDS, self._on_waiting)
        running = asyncio.create_task(statement)
        running.add_done_callback(lambda _: waiting.cancel())
        running.add_done_callback(lambda _: deadline.cancel())
        try:
            with self._translated():
                return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # retrieved, or asyncio would log it
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except StoreUnavailable as exc:
            if self._is_late:
                raise StoreUnavailable(f"the database did not answer in {self._seconds:g} s") from exc
            raise

    def _give_up(self) -> None:
        self._is_late = True
        self.end()
