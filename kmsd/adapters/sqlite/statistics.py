"""Statistics of the database, for metrics, read on a separate connection."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.reader import CLOCK_READING, DUE
from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.connection import translated
from kmsd.domain.trusted_time import ClockSample

_KEYS = "SELECT state, keys FROM key_state_count"
_DIFFERENT = (
    # Deleted, for clients.
    "SELECT state, NULL, count(*) FROM key WHERE deletion_at <= :now GROUP BY state",
    """SELECT key.state, 'PendingImport', count(DISTINCT key_id)
    FROM imported_material CROSS JOIN key USING (key_id)
    WHERE imported_material.valid_to <= :now AND key.valid_to <= :now AND key.state IN ('Enabled', 'Disabled')
    GROUP BY key.state""",
    """SELECT key.state, 'Unavailable', count(*)
    FROM token_object CROSS JOIN material ON material_id = object_id CROSS JOIN key USING (key_id)
    WHERE status = 'missing' AND status NOT IN ('ready', 'destroyed') AND current_material = object_id
    AND key.state = 'Enabled' AND (key.valid_to IS NULL OR key.valid_to > :now)
    GROUP BY key.state""",
    """SELECT key.state, 'Unavailable', count(*)
    FROM domain_key CROSS JOIN wrapped_material USING (domain_key_id) CROSS JOIN material USING (material_id)
    CROSS JOIN key USING (key_id) CROSS JOIN token_object ON object_id = material_id
    WHERE missing AND status <> 'missing' AND current_material = material_id
    AND key.state = 'Enabled' AND (key.valid_to IS NULL OR key.valid_to > :now)
    GROUP BY key.state""",
)
"""Stored state, shown state and number of keys whose stored state is not what `Key.state_at` and `Key.exists_at` say.

Each starts at an index of the few: CROSS JOIN keeps SQLite from starting at the keys.
"""
_OBJECTS = "SELECT token, status, count(*) FROM token_object WHERE custody = 'object' GROUP BY token, status"
_WRAPPED = "SELECT state, sum(materials) FROM domain_key JOIN domain_key_count USING (domain_key_id) GROUP BY state"


class Statistics(msgspec.Struct, frozen=True):
    """Statistics at one instant."""

    keys: Mapping[str, int]
    """Keys by state; only states that occur."""
    objects: Mapping[tuple[str, str], int]
    """Token objects by token and status. `missing` matters most."""
    wrapped: Mapping[str, int]
    """Wrapped materials by the state of their domain key."""
    due: Mapping[str, float]
    """Unix time at which deletion, expiry and rotation are next due; a job that is not due is left out."""
    clock: ClockSample | None
    """Last trusted reading of the clock."""


def read(path: Path, now: datetime) -> Statistics:
    """Read the statistics: some milliseconds, however many keys there are. Raises `StoreUnavailable`."""
    connection = connections.connect(path, busy_seconds=1)
    try:
        with translated():
            connection.execute("BEGIN")
            keys = _keys(connection, row_mapping.micros(now))
            objects = {(token, status): count for token, status, count in connection.execute(_OBJECTS)}
            wrapped = dict(connection.execute(_WRAPPED))
            due = {
                job.value: connection.execute(f"SELECT min({column}) FROM {table} WHERE {where}").fetchone()[0]
                for job, (table, column, where) in DUE.items()
            }
            row = connection.execute(CLOCK_READING).fetchone()
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


def _keys(connection: sqlite3.Connection, now: int | None) -> dict[str, int]:
    """Return the number of keys by the state that clients see; only states that occur."""
    counts = Counter(dict(connection.execute(_KEYS)))
    for query in _DIFFERENT:
        for stored, shown, number in connection.execute(query, {"now": now}):
            counts[stored] -= number
            if shown is not None:
                counts[shown] += number
    return {state: number for state, number in counts.items() if number}
