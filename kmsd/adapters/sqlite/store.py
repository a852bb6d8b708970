"""Embedded store: SQLite in WAL mode, every commit synced (`synchronous=FULL`).

Each process has two connections. Reads use one, on the event loop: they take microseconds. Writes use the other, one at
a time, and may share a commit (`shared_commit`). BEGIN IMMEDIATE and COMMIT may wait for another process's lock or the
disk, so they run on a thread; the statements between them do not.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from kmsd.adapters.sql.transaction import SqlTransaction
from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.access import SqliteAccess
from kmsd.adapters.sqlite.cached_reader import SqliteCachedReader
from kmsd.adapters.sqlite.change_detector import HEADER_LENGTH, ChangeDetector
from kmsd.adapters.sqlite.process_liveness import LivenessLocks
from kmsd.adapters.sqlite.shared_commit import BUSY_SECONDS, Member, SharedCommit
from kmsd.cloudwatch_logs.ports import LogReader, LogTransaction
from kmsd.ports import StoreUnfit
from kmsd.ports.counters import StoreCounters

PROBE_SECONDS = 1.0
"""Seconds for which a successful `check` is cached: health probes must not keep the disk busy."""


class _Finished:
    """In place of the connection of a transaction that has run its last statement."""

    def execute(self, *_: object) -> NoReturn:
        raise RuntimeError("a statement follows the last one of its transaction")


class SqliteTransaction(SqliteAccess, SqlTransaction):
    """Implements `kmsd.ports.Transaction` on the writing connection. The store begins and ends it."""

    def __init__(self, connection: sqlite3.Connection, makers: LivenessLocks, member: Member) -> None:
        super().__init__(connection, makers)
        self._member = member

    def finish(self) -> None:
        self._connection = _Finished()  # type: ignore[assignment]  # a later statement would be in another transaction
        self._member.finish()


class SqliteStore:
    """Implements `kmsd.cloudwatch_logs.ports.LogStore`."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`. Raises `StoreMissing` if there is none.

        Raises `StoreUnfit` if it is not kmsd's, or has another schema version.
        """
        self.path = path
        self._reading = connections.connect(path, busy_seconds=1.0)
        self._writing = connections.connect(path, busy_seconds=BUSY_SECONDS)
        self._version = self._required_version()
        self._makers = LivenessLocks(path)
        self._wal_index = ChangeDetector(path)
        self._reader = SqliteCachedReader(self._reading, self._makers)
        self._commits = SharedCommit(self._writing)
        self._proved_at = float("-inf")

    def _required_version(self) -> int:
        present, known = connections.version(self._reading), connections.migrations()[-1][0]
        if present != known:
            raise StoreUnfit(
                f"{self.path} has schema version {present}, this kmsd needs {known}: "
                + ("run `kmsd migrate`" if present < known else "it was written by a newer release; upgrade kmsd")
            )
        return present

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Register `notify`, called before the next request with the id of each object that any process destroys."""
        self._reader.on_object_destroying = notify

    @property
    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses, for metrics."""
        return self._reader.hits, self._reader.misses

    @property
    def counters(self) -> StoreCounters:
        """All 0: there is no server."""
        return StoreCounters()

    async def read(self) -> LogReader:
        # Compared before any read: later commits are then noticed by the next call.
        mapped = self._wal_index.mapped
        header = None if mapped is None else mapped[:HEADER_LENGTH]
        if header is None or header != self._reader.header:
            self._reader.catch_up()
            self._reader.header = header
        return self._reader

    @asynccontextmanager
    async def write(self) -> AsyncIterator[LogTransaction]:
        async with self._commits.member() as member:
            yield SqliteTransaction(self._writing, self._makers, member)

    async def check(self) -> None:
        if time.monotonic() - self._proved_at < PROBE_SECONDS:
            return
        async with self.write():
            # A transaction that changes nothing also commits on a read-only file system. This one changes a page.
            await self._commits.in_thread(lambda: self._writing.execute(f"PRAGMA user_version = {self._version}"))
        self._proved_at = time.monotonic()

    async def close(self) -> None:
        await self._commits.close()
        self._reading.close()
        self._writing.close()
        self._makers.close()
        self._wal_index.close()
