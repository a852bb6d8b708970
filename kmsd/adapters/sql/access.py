"""Access to one connection of a database, as the statements of this package use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kmsd.ports import StoreConflict

if TYPE_CHECKING:
    from collections.abc import Collection

    from kmsd.adapters.sql.row_mapping import Row


class SqlAccess(ABC):
    """Runs statements. Parameters are `?`, or `?1`, `?2`, … Every method raises the port's errors."""

    @abstractmethod
    async def _all(self, sql: str, *values: object) -> list[Row]:
        """Return all rows."""

    @abstractmethod
    async def _one(self, sql: str, *values: object) -> Row | None:
        """Return the first row; None if there is none."""

    @abstractmethod
    async def _run(self, sql: str, *values: object) -> int:
        """Return the number of rows that the statement changed."""

    _judges_leases = False
    """True if the database's clock judges leases, because those of its hosts differ; else the caller's does."""
    _clock: str
    """SQL expression for the time of day by the database's clock, in microseconds since 1970."""
    _json_object: str
    """SQL aggregate that makes a JSON object of names and texts."""

    @property
    @abstractmethod
    def _node(self) -> str:
        """Id of this node. Empty: the only one, which has no row."""

    @property
    @abstractmethod
    def hsm(self) -> str:
        """Name of this node's HSM. Empty: that of the first node."""

    @property
    @abstractmethod
    def _maker(self) -> int:
        """Number of this process, for the rows that it promises to settle."""

    @abstractmethod
    async def _gone(self, makers: Collection[int | None]) -> Collection[int | None]:
        """Return the numbers of processes that count as ended: what they have begun may be undone. Never None."""

    async def _swap(self, what: str, sql: str, *values: object) -> None:
        """Run a statement that must change exactly one row. Raises `StoreConflict`."""
        if await self._run(sql, *values) != 1:
            raise StoreConflict(f"{what} is not what it was")

    async def _insert(self, table: str, columns: str, values: tuple[object, ...]) -> None:
        marks = ", ".join("?" * len(values))
        await self._run(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *values)
