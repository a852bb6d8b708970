"""Store in PostgreSQL.

Each process has three connections: one asks before each request if anything has changed (`read_index`), one reads, and
one writes. A transaction that writes first raises the number in `change_seq`, which makes it the only one that writes.

A commit whose answer is lost is settled before anything is answered. The transaction inserts its id as `committed`. To
settle it, another connection inserts the id as `abandoned`, unless it is there, and reads which of the two is. A COMMIT
is never cancelled: the server would report a success that no standby has.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kmsd.adapters.postgres import connection as connections
from kmsd.adapters.postgres.access import PostgresAccess
from kmsd.adapters.postgres.errors import translated
from kmsd.adapters.postgres.read_index import ReadIndex
from kmsd.adapters.sql.cached_reader import CachedReader
from kmsd.adapters.sql.transaction import SqlTransaction
from kmsd.cloudwatch_logs.ports import LogReader, LogTransaction
from kmsd.ports import StoreUnavailable

if TYPE_CHECKING:
    import asyncpg

_QUESTION = """
    SELECT present.seq, present.trimmed, change.seq, change.subject
    FROM change_seq AS present LEFT JOIN change ON change.seq > $1 ORDER BY change.seq, change.subject"""
_KEPT_CHANGES = 4096
_TRIM_EVERY = 256
_PLACES = 2**62
PROBE_SECONDS = 1.0
"""Seconds for which a successful `check` is cached."""


class PostgresTransaction(PostgresAccess, SqlTransaction):
    """Implements `kmsd.ports.Transaction`. The store begins and ends it."""

    def __init__(self, connection: asyncpg.Connection, maker: int) -> None:
        super().__init__(maker)
        self._connection = connection


class PostgresReader(PostgresAccess, CachedReader):
    """Implements `kmsd.ports.Reader`."""

    _asking: asyncpg.Connection | None = None

    async def reconnect(self, url: str) -> None:
        """Connect again where a connection is lost, and forget everything: after a failover numbers may repeat."""
        if self._connection is not None and not self._connection.is_closed():
            if self._asking is not None and not self._asking.is_closed():
                return
            self._connection.terminate()
        self._asking = await connections.connect(url)
        await connections.require_version(self._asking)
        self._connection = await connections.connect(url)
        self._invalidate_all()
        self._seen = -1

    async def ask(self) -> None:
        """Ask what was committed, and invalidate it. Raises `StoreUnavailable`."""
        if self._asking is None:
            raise StoreUnavailable("the connection to the database is lost")
        with translated():
            rows = await self._asking.fetch(_QUESTION, self._seen)
        present, trimmed = rows[0][0], rows[0][1]
        if self._seen < trimmed or self._seen < 0:
            self._invalidate_all()
        else:
            for row in rows:
                if row[3] is not None:
                    self._invalidate(row[3])
            if present != self._seen:
                self._generation += 1
        self._seen = present

    async def end(self) -> None:
        """Close the connections."""
        for one in (self._connection, self._asking):
            if one is not None:
                one.terminate()


class PostgresStore:
    """Implements `kmsd.cloudwatch_logs.ports.LogStore`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._maker = secrets.randbelow(_PLACES)
        self._reader = PostgresReader(self._maker)
        self._index = ReadIndex(self._ask)
        self._writing: asyncpg.Connection | None = None
        self._writer = asyncio.Lock()
        self._proved_at = float("-inf")

    @classmethod
    async def open(cls, url: str) -> PostgresStore:
        """Open the database. Raises `StoreUnavailable` (`StoreMissing`, `StoreUnfit`)."""
        store = cls(url)
        await store._index.barrier()
        return store

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Register `notify`, as `kmsd.ports.Store` says."""
        self._reader.on_object_destroying = notify

    @property
    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses, for metrics."""
        return self._reader.hits, self._reader.misses

    async def _ask(self) -> None:
        try:
            await self._reader.reconnect(self._url)
            await self._reader.ask()
        except StoreUnavailable:
            await self._reader.end()
            raise

    async def read(self) -> LogReader:
        await self._index.barrier()
        return self._reader

    @asynccontextmanager
    async def write(self) -> AsyncIterator[LogTransaction]:
        async with self._writer:
            connection, transaction_id = await self._connected(), secrets.token_hex(16)
            try:
                seq = await self._begin(connection)
                yield PostgresTransaction(connection, self._maker)
                await self._commit(connection, transaction_id, seq)
            except BaseException:
                await self._roll_back(connection)
                raise

    async def _connected(self) -> asyncpg.Connection:
        if self._writing is None or self._writing.is_closed():
            self._writing = await connections.connect(self._url)
            await connections.require_version(self._writing)
        return self._writing

    async def _begin(self, connection: asyncpg.Connection) -> int:
        with translated():
            await connection.execute("BEGIN")
            return int(await connection.fetchval("UPDATE change_seq SET seq = seq + 1 RETURNING seq"))

    async def _commit(self, connection: asyncpg.Connection, transaction_id: str, seq: int) -> None:
        """Commit; if the answer is lost, find out if it worked. Raises `StoreUnavailable` if it did not."""
        with translated():
            if seq % _TRIM_EVERY == 0:
                await connection.execute("DELETE FROM change WHERE seq <= $1", seq - _KEPT_CHANGES)
                await connection.execute("DELETE FROM outcome WHERE seq <= $1", seq - _KEPT_CHANGES)
                await connection.execute("UPDATE change_seq SET trimmed = greatest(trimmed, $1)", seq - _KEPT_CHANGES)
        commit = f"INSERT INTO outcome (id, what, seq) VALUES ('{transaction_id}', 'committed', {seq}); COMMIT"
        committing = asyncio.ensure_future(connection.execute(commit))
        try:
            with translated():
                await asyncio.shield(committing)
        except StoreUnavailable as exc:
            connection.terminate()
            if not await self._is_committed(transaction_id, seq):
                raise StoreUnavailable(f"the transaction was not committed: {exc}") from exc
        except asyncio.CancelledError:
            await asyncio.wait([committing])
            raise

    async def _is_committed(self, transaction_id: str, seq: int) -> bool:
        """Settle the outcome of a transaction. Raises `StoreUnavailable` if that is not possible."""
        self._writing = connection = await connections.connect(self._url)
        with translated():
            await connection.execute(
                "INSERT INTO outcome (id, what, seq) VALUES ($1, 'abandoned', $2) ON CONFLICT DO NOTHING",
                transaction_id,
                seq,
            )
            what = await connection.fetchval("SELECT what FROM outcome WHERE id = $1", transaction_id)
        return bool(what == "committed")

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        if not connection.is_closed() and connection.is_in_transaction():
            try:
                with translated():
                    await connection.execute("ROLLBACK")
            except StoreUnavailable:
                connection.terminate()

    async def check(self) -> None:
        if time.monotonic() - self._proved_at < PROBE_SECONDS:
            return
        async with self.write():
            pass  # it raises the number of the last transaction
        self._proved_at = time.monotonic()

    async def close(self) -> None:
        async with self._writer:
            if self._writing is not None:
                self._writing.terminate()
            await self._reader.end()
