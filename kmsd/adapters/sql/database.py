"""The database as a whole: what is done with it apart from requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmsd.adapters.sql.statistics import Statistics
    from kmsd.adapters.sql.tables import TablesOfDatabase
    from kmsd.cloudwatch_logs.ports import LogStore


class Database(ABC):
    """A database that may not exist yet. `str` names it for operators. All methods raise `StoreUnavailable`."""

    @abstractmethod
    async def exists(self) -> bool:
        """Return True if it has kmsd's tables, of whatever version."""

    @abstractmethod
    async def create(self) -> None:
        """Create it, with all tables. Raises `StoreConflict` if it exists."""

    @abstractmethod
    async def schema(self) -> int:
        """Return its schema version. Raises `StoreMissing`, `StoreUnfit`."""

    @abstractmethod
    def newest(self) -> int:
        """Return the schema version that this release writes."""

    @abstractmethod
    async def migrate(self) -> int:
        """Bring the schema up to date; return the number of steps. Raises `StoreUnfit` if a newer kmsd wrote it."""

    @abstractmethod
    async def date_first_start(self, now: datetime) -> None:
        """Set, at the first start after an upgrade, the times that depend on it (`kmsd.adapters.sql.first_start`)."""

    @abstractmethod
    async def statistics(self, now: datetime) -> Statistics:
        """Read the statistics for metrics."""

    @abstractmethod
    async def problems(self) -> Sequence[str]:
        """Return what an operator should change in its settings, for `kmsd check`."""

    @abstractmethod
    def tables(self) -> AbstractAsyncContextManager[TablesOfDatabase]:
        """Open all tables to be read, as of one moment."""

    @abstractmethod
    def creating(self) -> AbstractAsyncContextManager[TablesOfDatabase]:
        """Create the database, with empty tables and, if it may have nodes, without any.

        It exists from the end of the block on; if that raises, it does not. Raises `StoreConflict` if it exists.
        """

    @abstractmethod
    async def retire(self) -> str:
        """Make it unusable for every host, without deleting it. Return what has become of it, for operators."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[LogStore]:
        """Open the store, and close it at the end of the block. Raises `StoreUnfit` if this host is no node of it."""

    @abstractmethod
    def open_before_joining(self, hsm: str | None = None) -> AbstractAsyncContextManager[LogStore]:
        """Open the store for a command that makes this host a node, of the HSM of this name; None: that it has."""
