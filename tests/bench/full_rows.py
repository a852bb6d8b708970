"""Many rows in a PostgreSQL of the benchmarks: copies of a few that kmsd has made, under other names, by COPY.

The copies are of every kind that jobs look for: a hundredth is pending deletion, a hundredth is rotated by the job, a
tenth is disabled. Their material cannot be used, since a MAC binds it to the key that it was made for.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.support.postgres import Cluster

KEY = "md5('key' || n)::uuid::text"
MATERIAL = "decode(md5('material' || n), 'hex')"
LATER = "t.created_at + 86400000000 * (1 + n % 3650)"
"""Up to ten years after the key that is copied."""
ROTATION, DELETION, DISABLED = "n % 100 = 1", "n % 100 = 2", "n % 10 = 3"
SHARES = 2
"""Connections that write at a time."""
_BIG = {"wal_level": "minimal", "max_wal_senders": 0, "shared_buffers": "'2GB'", "max_wal_size": "'16GB'"}
_FAST = {"fsync": "off", "full_page_writes": "off", "checkpoint_timeout": "'1h'", "maintenance_work_mem": "'1GB'"}


@dataclass(frozen=True)
class Rows:
    """The rows that are copied, and how often."""

    key_id: str
    """A key with wrapped material, an alias and a grant; a hundredth of all grants is on it."""
    grant_id: str
    keys: int
    grants: int
    aliases: int


def restart(server: Cluster, settings: Mapping[str, object]) -> None:
    """With these settings; what is None gets its default again."""
    for name, value in settings.items():
        server.run_sql(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = {value}")
    server.process.send_signal(signal.SIGINT)  # at once: with SIGTERM it would wait for its clients
    server.process.wait(300)
    server.start()


def prepare(server: Cluster) -> None:
    """Write fast; nothing survives a loss of power."""
    restart(server, {**_BIG, **_FAST})


def finish(server: Cluster) -> None:
    """Write durably again, all of it on disk."""
    server.run_sql("CHECKPOINT")
    restart(server, dict.fromkeys(_FAST))


def fill(server: Cluster, database: str, rows: Rows) -> None:
    """Add the copies, and what counts them."""
    of_key = f"key_id = '{rows.key_id}'"
    own = f"(SELECT current_material FROM key WHERE {of_key})"  # noqa: S608 (names of this file)
    state = f"CASE WHEN {DELETION} THEN 'PendingDeletion' WHEN {DISABLED} THEN 'Disabled' ELSE t.state END"
    copies: Sequence[tuple[str, str, int, Mapping[str, str]]] = (
        ("token_object", f"object_id = {own}", rows.keys, {"object_id": MATERIAL, "owner": f"'key:' || {KEY}"}),
        (
            "key",
            of_key,
            rows.keys,
            {
                "key_id": KEY,
                "arn": f"replace(t.arn, t.key_id, {KEY})",
                "state": state,
                "current_material": MATERIAL,
                "deletion_at": f"CASE WHEN {DELETION} THEN {LATER} END",
                "pending_window_days": f"CASE WHEN {DELETION} THEN 30::bigint END",
                "rotation_period_days": f"CASE WHEN {ROTATION} THEN 365::bigint END",
                "next_rotation_at": f"CASE WHEN {ROTATION} THEN {LATER} END",
            },
        ),
        ("material", of_key, rows.keys, {"material_id": MATERIAL, "key_id": KEY}),
        ("wrapped_material", f"material_id = {own}", rows.keys, {"material_id": MATERIAL}),
        (
            "grant_",
            f"grant_id = '{rows.grant_id}'",
            rows.grants,
            {
                "grant_id": "md5('grant' || n) || md5('grant-' || n)",
                "key_id": f"CASE WHEN n % 100 = 0 THEN t.key_id ELSE {KEY} END",
                "grantee_principal": "t.grantee_principal || n",
            },
        ),
        ("alias", of_key, rows.aliases, {"name": "'alias/copy-' || n", "key_id": KEY}),
    )
    for table, where, count, replaced in copies:
        _copy(server, database, (table, where, replaced), count)
    for statement in _COUNTS:
        server.run_sql(f"SET session_replication_role = replica; {statement}", database)
    server.run_sql("VACUUM (ANALYZE)", database)


_COUNTS = (
    "UPDATE key_count SET keys = (SELECT count(*) FROM key WHERE account = key_count.account)",
    "DELETE FROM key_state_count",
    "INSERT INTO key_state_count (state, keys) SELECT state, count(*) FROM key GROUP BY state",
    "DELETE FROM grant_count",
    "INSERT INTO grant_count (key_id, grants) SELECT key_id, count(*) FROM grant_ GROUP BY key_id",
    "DELETE FROM domain_key_count",
    "INSERT INTO domain_key_count SELECT domain_key_id, count(*) FROM wrapped_material GROUP BY domain_key_id",
)
"""What triggers count, at once."""


def _copy(server: Cluster, database: str, what: tuple[str, str, Mapping[str, str]], count: int) -> None:
    """Copy one row of a table so often; no trigger runs meanwhile."""
    table, where, replaced = what
    columns = server.run_sql(
        "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute "  # noqa: S608 (as above)
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped",
        database,
    ).split(",")
    values = ", ".join(replaced.get(column, f"t.{column}") for column in columns)

    def share(number: int) -> None:
        first, last = count * number // SHARES + 1, count * (number + 1) // SHARES
        select = f"SELECT {values} FROM {table} AS t, generate_series({first}, {last}) AS n WHERE t.{where}"  # noqa: S608 (as above)
        reached = map(str, server._reached)
        psql = [str(server.binaries / "psql"), *reached, "-qX", "-v", "ON_ERROR_STOP=1", database, "-c"]
        source = subprocess.Popen([*psql, f"COPY ({select}) TO STDOUT (FORMAT binary)"], stdout=subprocess.PIPE)
        off = "SET session_replication_role = replica"
        into = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
        subprocess.run([*psql, off, "-c", into], stdin=source.stdout, check=True)
        assert source.wait() == 0

    with ThreadPoolExecutor(SHARES) as threads:
        list(threads.map(share, range(SHARES)))
