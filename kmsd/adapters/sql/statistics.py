"""Statistics of the database, for metrics: statements that both databases understand, and the meaning of their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from kmsd.adapters.sql.reader import DUE
from kmsd.adapters.sql.row_mapping import Row
from kmsd.domain.trusted_time import ClockSample

MAX_COUNTED = 100_000
"""Materials under missing domain keys up to which the keys that need them are counted one by one."""
_LOST = """SELECT CAST(coalesce(sum(materials), 0) AS BIGINT)
    FROM domain_key JOIN domain_key_count USING (domain_key_id) WHERE missing = 1"""
KEYS = "SELECT state, keys FROM key_state_count"
DIFFERENT = (
    # Deleted, for clients.
    "SELECT state, NULL, count(*) FROM key WHERE deletion_at <= ?1 GROUP BY state",
    """SELECT key.state, 'PendingImport', count(DISTINCT key_id)
    FROM imported_material CROSS JOIN key USING (key_id)
    WHERE imported_material.valid_to <= ?1 AND key.valid_to <= ?1 AND key.state IN ('Enabled', 'Disabled')
    GROUP BY key.state""",
    """SELECT key.state, 'Unavailable', count(*)
    FROM token_object CROSS JOIN material ON material_id = object_id CROSS JOIN key USING (key_id)
    WHERE status = 'missing' AND status NOT IN ('ready', 'destroyed') AND current_material = object_id
    AND key.state = 'Enabled' AND (key.valid_to IS NULL OR key.valid_to > ?1)
    GROUP BY key.state""",
    f"""SELECT key.state, 'Unavailable', count(*)
    FROM domain_key CROSS JOIN wrapped_material USING (domain_key_id) CROSS JOIN material USING (material_id)
    CROSS JOIN key USING (key_id) CROSS JOIN token_object ON object_id = material_id
    WHERE missing = 1 AND status <> 'missing' AND current_material = material_id
    AND key.state = 'Enabled' AND (key.valid_to IS NULL OR key.valid_to > ?1)
    AND ({_LOST}) BETWEEN 1 AND {MAX_COUNTED}
    GROUP BY key.state""",
    # Too many to be counted at each scrape: the number of materials, at most that of the keys that are left.
    f"""SELECT state, 'Unavailable', ({_LOST})
    FROM key_state_count WHERE state = 'Enabled' AND CAST(?1 AS BIGINT) > 0 AND ({_LOST}) > {MAX_COUNTED}""",
)
"""Stored state, shown state and number of keys whose stored state is not what `Key.state_at` and `Key.exists_at` say.

`?1` is the instant. Each starts at an index of the few: CROSS JOIN keeps SQLite from starting at the keys, and
PostgreSQL has its own means (`kmsd.adapters.postgres.statistics`).
"""
OBJECTS = "SELECT token, status, count(*) FROM token_object WHERE custody = 'object' GROUP BY token, status"
WRAPPED = "SELECT state, sum(materials) FROM domain_key JOIN domain_key_count USING (domain_key_id) GROUP BY state"


DUE_AT = {
    job.value: f"SELECT min({column}) FROM {table} WHERE {condition}" for job, (table, column, condition) in DUE.items()
}
"""Instant at which each job is next due."""


class ServerStatistics(msgspec.Struct, frozen=True):
    """The database server, and the nodes that use it."""

    timeline: int
    """One more with each promotion."""
    wal_bytes: int
    """Position in the write-ahead log: bytes written since the cluster was made."""
    standbys: int
    """Standbys that are attached."""
    needs_standby: bool
    """True if a commit waits for a standby."""
    nodes: Mapping[str, int]
    """Nodes by `alive`, and `silent` for half a minute."""


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
    server: ServerStatistics | None = None


def by_state(stored: Iterable[Row], different: Iterable[Row]) -> dict[str, int]:
    """Return the number of keys by the state that clients see, of rows of `KEYS` and `DIFFERENT`; those that occur."""
    counts: Counter[str] = Counter(dict(stored))
    for state, shown, number in different:
        moved = min(number, counts[state])
        counts[state] -= moved
        if shown is not None:
            counts[shown] += moved
    return {state: number for state, number in counts.items() if number}
