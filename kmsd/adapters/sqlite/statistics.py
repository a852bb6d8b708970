"""Statistics of the database, for metrics, read on a separate connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.reader import CLOCK_READING, DUE
from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.connection import translated
from kmsd.domain.trusted_time import ClockSample

_KEYS = """
    SELECT CASE
        WHEN key.state = 'PendingDeletion' THEN 'PendingDeletion'
        WHEN key.valid_to <= :now THEN 'PendingImport'
        WHEN key.state = 'Enabled' AND object.status = 'missing' THEN 'Unavailable'
        WHEN key.state = 'Enabled' AND EXISTS (SELECT 1 FROM domain_key WHERE missing) AND EXISTS (
            SELECT 1 FROM wrapped_material JOIN domain_key USING (domain_key_id)
            WHERE material_id = key.current_material AND missing) THEN 'Unavailable'
        ELSE key.state END AS shown, count(*)
    FROM key LEFT JOIN token_object AS object ON object.object_id = key.current_material
    WHERE key.deletion_at IS NULL OR key.deletion_at > :now GROUP BY shown"""
"""Counts keys by state, with the rules of `Key.state_at` and `Key.exists_at`."""
_OBJECTS = "SELECT status, count(*) FROM token_object WHERE custody = 'object' GROUP BY status"
_WRAPPED = "SELECT state, sum(materials) FROM domain_key JOIN domain_key_count USING (domain_key_id) GROUP BY state"


class Statistics(msgspec.Struct, frozen=True):
    """Statistics at one instant."""

    keys: Mapping[str, int]
    """Keys by state; only states that occur."""
    objects: Mapping[str, int]
    """Token objects by status. `missing` matters most."""
    wrapped: Mapping[str, int]
    """Wrapped materials by the state of their domain key."""
    due: Mapping[str, float]
    """Unix time at which deletion, expiry and rotation are next due; a job that is not due is left out."""
    clock: ClockSample | None
    """Last trusted reading of the clock."""


def read(path: Path, now: datetime) -> Statistics:
    """Read the statistics: some milliseconds for ten thousand keys. Raises `StoreUnavailable`."""
    connection = connections.connect(path, busy_seconds=1)
    try:
        with translated():
            connection.execute("BEGIN")
            keys = dict(connection.execute(_KEYS, {"now": row_mapping.micros(now)}))
            objects = dict(connection.execute(_OBJECTS))
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
