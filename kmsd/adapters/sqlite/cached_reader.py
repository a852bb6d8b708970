"""Cached reader of a SQLite database.

Before each request the store reads the WAL index (`change_detector`). If it differs, the reader asks `PRAGMA
data_version`: has any other connection committed since (this process's own writing connection included)?
"""

from __future__ import annotations

import sqlite3

from kmsd.adapters.sql.cached_reader import CachedReader
from kmsd.adapters.sqlite.access import SqliteAccess
from kmsd.adapters.sqlite.process_liveness import LivenessLocks


class SqliteCachedReader(SqliteAccess, CachedReader):
    """Implements `kmsd.ports.Reader` on the reading connection of a process."""

    def __init__(self, connection: sqlite3.Connection, makers: LivenessLocks) -> None:
        super().__init__(connection, makers)
        self.header: bytes | None = None
        """Header of the WAL index when the reader last caught up; None: another commit may have come since."""
        self._version: int | None = None

    def catch_up(self) -> None:
        """Invalidate everything that was changed since the last call."""
        ((version,),) = self._rows("PRAGMA data_version")
        if version == self._version:
            return
        changes = self._rows("SELECT seq, subject FROM change WHERE seq > ? ORDER BY seq", self._seen)
        self._apply(changes, is_first=self._version is None)
        self._version = version
