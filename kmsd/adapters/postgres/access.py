"""Statements on one PostgreSQL connection."""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.sql.access import SqlAccess
from kmsd.ports import StoreUnavailable, StoreUnfit, TextRefused

if TYPE_CHECKING:
    from collections.abc import Collection

    from kmsd.adapters.postgres.session import Session
    from kmsd.adapters.sql.row_mapping import Row

RAISE_NUMBER = "UPDATE change_seq SET seq = seq + 1"
"""First statement of each transaction that writes. Until it ends, no other one gets further than this."""
CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's time of day, in microseconds since 1970."""
GONE_SECONDS = 30
"""Seconds since a process last said that it is alive, from which on it counts as ended."""
_ALIVE = f"SELECT maker FROM maker WHERE seen_at > {CLOCK} - {GONE_SECONDS * 1_000_000}"
NO_NODE = "none"
"""Id of a host that has none: no row has it."""
_PLACEHOLDER = re.compile(r"\?(\d*)")


class Member(msgspec.Struct, frozen=True):
    """One process, as the database knows it."""

    maker: int
    """Number of the process, in the rows that it promises to settle."""
    node_id: str = ""
    """Id of its node. Empty: it is no node yet, and is not refused for that; `kmsd init` and `kmsd join` alone."""
    hsm: str = ""
    """Name of its node's HSM."""

    def require_known(self, *, is_known: bool) -> None:
        """Raise `StoreUnfit` if the table of nodes has no row of this one."""
        if self.node_id and not is_known:
            why = "was removed, or its data folder is of another database"
            if self.node_id == NO_NODE:
                why = "has no id in its data folder"
            raise StoreUnfit(
                f"this host is no node of the database: it {why}. `kmsd join` makes it one; on the first host `kmsd "
                "init` does, also after an upgrade from a release without nodes"
            )


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """Return a statement with `$1`, `$2`, … for `?`, or for `?1`, `?2`, …"""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found[1] or count}"

    return _PLACEHOLDER.sub(number, sql)


class PostgresAccess(SqlAccess):
    """Runs statements one after the other."""

    _clock = CLOCK
    _json_object = "json_object_agg"
    _judges_leases = True

    def __init__(self, member: Member, session: Session | None = None) -> None:
        super().__init__()
        self._session = session
        self._turn = asyncio.Lock()
        self._member = member

    @property
    def session(self) -> Session | None:
        """The connection; None before the first one."""
        return self._session

    def _connected(self) -> Session:
        if self._session is None:
            raise StoreUnavailable("the connection to the database is lost")
        return self._session

    async def _all(self, sql: str, *values: object) -> list[Row]:
        async with self._turn:
            return [tuple(row) for row in await self._connected().fetch(numbered(sql), *map(_plain, values))]

    async def _one(self, sql: str, *values: object) -> Row | None:
        rows = await self._all(sql, *values)
        return rows[0] if rows else None

    async def _run(self, sql: str, *values: object) -> int:
        async with self._turn:
            status = await self._connected().execute(numbered(sql), *map(_plain, values))
        return int(status.rpartition(" ")[2]) if status[-1:].isdigit() else 0

    @property
    def _node(self) -> str:
        return self._member.node_id

    @property
    def hsm(self) -> str:
        return self._member.hsm

    @property
    def _maker(self) -> int:
        return self._member.maker

    async def _gone(self, makers: Collection[int | None]) -> Collection[int | None]:
        # A lost connection is no dead process: processes say that they are alive. One that was only slow loses its
        # intents and leases, and finds that out: it promises an object by compare and swap on the intent's row.
        others = set(makers) - {None, self._maker}
        return others - {row[0] for row in await self._all(_ALIVE)} if others else others


def _plain(value: object) -> object:
    """Return a value as asyncpg takes it. Raises `TextRefused`.

    PostgreSQL has no texts with U+0000, neither to store nor to find. All values of all statements pass here, so there
    is no second check.
    """
    if isinstance(value, str) and "\0" in value:
        raise TextRefused
    return int(value) if isinstance(value, bool) else value
