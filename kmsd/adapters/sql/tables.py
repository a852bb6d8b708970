"""Tables of a database as a whole, to move them to another database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from kmsd.adapters.sql.row_mapping import Row
from kmsd.ports import StoreUnfit

BATCH = 5_000
"""Rows that are read, written and compared at once."""
MOVED = (
    *("account", "user", "user_policy", "user_tag", "access_key", "role", "role_policy", "role_tag"),
    *("token_object", "service_key", "key", "material", "alias", "key_tag", "grant_", "wrapping_key"),
    *(
        "imported_material",
        "domain_key",
        "domain_key_holder",
        "wrapped_material",
        "deleted_material",
        "key_usage",
        "key_usage_tracking",
    ),
    *("key_count", "key_state_count", "grant_count", "domain_key_count", "session_mac", "audit_checkpoint"),
    *("log_group", "log_group_tag", "log_stream", "log_dead_group", "log_dead_stream", "log_results_key", "log_query"),
    "clock_reading",
)
"""Tables that are moved, each after those that it refers to."""
LEFT = ("lease", "change", "node", "maker")
"""Tables of running processes and hosts, which start empty."""


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return f'"{name}"'


def listed(names: Sequence[str]) -> str:
    """Return names as SQL has them, separated by commas."""
    return ", ".join(map(quoted, names))


class TablesOfDatabase(ABC):
    """All tables, in one transaction. Every method raises the port's errors."""

    @abstractmethod
    async def columns(self, table: str) -> Mapping[str, bool]:
        """Return the names of a table's columns, and True for those of its primary key, in the key's order."""

    @abstractmethod
    def rows(self, table: str, columns: Sequence[str], order: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        """Yield all rows in batches of `BATCH`, the last one smaller or empty."""

    @abstractmethod
    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert rows, without the consequences that triggers give them."""

    @abstractmethod
    async def count(self, table: str) -> int:
        """Return the number of rows."""

    @abstractmethod
    async def clear(self, table: str) -> None:
        """Delete all rows."""


Change = Callable[[Sequence[Row]], Sequence[Row]]


async def count(tables: TablesOfDatabase) -> int:
    """Return the number of rows that `move` copies."""
    return sum([await tables.count(table) for table in MOVED])


async def move(
    source: TablesOfDatabase,
    target: TablesOfDatabase,
    node_id: str,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, int]:
    """Copy all rows into the empty tables of `target`, and compare each with what `target` then has.

    The clock's reading of the node `node_id` becomes that of no node; those of other nodes are left. Return the number
    of rows of each table. `advance` is called with the number of rows that were copied. Raises `StoreUnfit` if a table
    differs.
    """
    counts = {}
    for table in reversed(MOVED):
        await target.clear(table)
    for table in MOVED:
        columns = await source.columns(table)
        if set(columns) != set(await target.columns(table)):
            raise StoreUnfit(f"the table {table} has other columns in the two databases")
        names, order = list(columns), [name for name, is_key in columns.items() if is_key]
        change = _of_host(names.index("node_id"), node_id) if table == "clock_reading" else _unchanged
        counts[table] = 0
        async for batch in source.rows(table, names, order):
            rows = change(batch)
            counts[table] += len(rows)
            await target.insert(table, names, rows)
            advance(len(rows))
        await _compare(table, source.rows(table, names, order), target.rows(table, names, order), change)
    return counts


def _unchanged(rows: Sequence[Row]) -> Sequence[Row]:
    return rows


def _of_host(index: int, node_id: str) -> Change:
    """Return a function that takes the rows of one node from it, and leaves out those of others."""
    return lambda rows: [(*row[:index], "", *row[index + 1 :]) for row in rows if row[index] in ("", node_id)]


async def _compare(
    table: str,
    source: AsyncIterator[Sequence[Row]],
    target: AsyncIterator[Sequence[Row]],
    change: Change,
) -> None:
    """Compare two tables row by row. Raises `StoreUnfit` if they differ."""
    count = 0
    async for expected in source:
        found: Sequence[Row] = await anext(target, [])
        wanted = list(change(expected))
        if list(found) != wanted:
            place = next(
                (n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found)
            )
            raise StoreUnfit(f"the table {table} differs in row {count + place + 1} after it was copied")
        count += len(expected)
    if await anext(target, []):
        raise StoreUnfit(f"the table {table} has more rows after it was copied")
