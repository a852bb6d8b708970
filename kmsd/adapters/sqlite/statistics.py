"""Statistics of a SQLite database, read on a separate connection."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.nodes import CLOCK_READING
from kmsd.adapters.sql.statistics import DIFFERENT, DUE_AT, KEYS, OBJECTS, WRAPPED, Statistics, by_state
from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.connection import translated


def read(path: Path, now: datetime) -> Statistics:
    """Read the statistics: some milliseconds, however many keys there are. Raises `StoreUnavailable`."""
    connection, instant = connections.connect(path, busy_seconds=1), row_mapping.micros(now)
    try:
        with translated():
            connection.execute("BEGIN")
            different = [row for query in DIFFERENT for row in connection.execute(query, (instant,))]
            keys = by_state(connection.execute(KEYS), different)
            objects = {(token, status): count for token, status, count in connection.execute(OBJECTS)}
            wrapped = dict(connection.execute(WRAPPED))
            due = {job: connection.execute(query).fetchone()[0] for job, query in DUE_AT.items()}
            row = connection.execute(CLOCK_READING, ("",)).fetchone()
            connection.execute("COMMIT")
    finally:
        connection.close()
    return Statistics(
        keys,
        objects,
        wrapped,
        {job: at / 1e6 for job, at in due.items() if at is not None},
        None if row is None else row_mapping.clock_reading(row),
    )
