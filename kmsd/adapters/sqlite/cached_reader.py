"""Cached reader of a SQLite database.

Before each request the process reads the WAL index and, if it differs, asks `PRAGMA data_version`: has any other
connection committed since (this process's own writing connection included)?
"""

from __future__ import annotations

import sqlite3

from kmsd.adapters.sql.cached_reader import CachedReader
from kmsd.adapters.sqlite.access import SqliteAccess
from kmsd.adapters.sqlite.change_detector import ChangeDetector
from kmsd.adapters.sqlite.process_liveness import LivenessLocks


class SqliteCachedReader(SqliteAccess, CachedReader):
    """Implements `kmsd.ports.Reader` on the reading connection of a process."""

    def __init__(self, connection: sqlite3.Connection, makers: LivenessLocks, wal_index: ChangeDetector) -> None:
        super().__init__(connection, makers)
        self._change_detector = wal_index
        self._header: bytes | None = None
        self._version: int | None = None

    def refresh(self) -> None:
        """Invalidate everything that was changed since the last call."""
        header = self._change_detector.header()  # before any read: later commits are then noticed by the next call
        if header is not None and header == self._header:
            return
        self._catch_up()
        self._header = header

    def _catch_up(self) -> None:
        ((version,),) = self._rows("PRAGMA data_version")
        if version == self._version:
            return
        changes = self._rows("SELECT seq, subject FROM change WHERE seq > ? ORDER BY seq", self._seen)
        self._apply(changes, is_first=self._version is None)
        self._version = version
