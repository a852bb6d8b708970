"""Store of the jobs that run under a lease: no transaction of a process that has lost it changes anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from kmsd.ports import Clock, Reader, Store, StoreUnavailable, Transaction
from kmsd.ports.counters import StoreCounters


class LeasedStore:
    """Implements `kmsd.ports.Store` for the holder of a lease.

    Each transaction renews the lease first, and raises `StoreUnavailable` if another process has it.
    """

    def __init__(self, store: Store, clock: Clock, name: str, holder: str, lasts: timedelta) -> None:
        self._store, self._clock = store, clock
        self._name, self._holder, self._lasts = name, holder, lasts

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Register `notify`, as `kmsd.ports.Store` says."""
        self._store.on_object_destroying(notify)

    @property
    def cache_use(self) -> tuple[int, int]:
        """Cache hits and misses, for metrics."""
        return self._store.cache_use

    @property
    def counters(self) -> StoreCounters:
        """Counters of the use of a database server, for metrics."""
        return self._store.counters

    async def read(self) -> Reader:
        """Return a reader, which needs no lease."""
        return await self._store.read()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Start a transaction that has renewed the lease. Raises `StoreUnavailable` if it is lost."""
        async with self._store.write() as transaction:
            now = self._clock.now()
            if not await transaction.acquire_lease(self._name, self._holder, now, now + self._lasts):
                raise StoreUnavailable(f"the lease {self._name} was lost: another process runs the jobs")
            yield transaction

    async def check(self) -> None:
        """Verify that the store can be written."""
        await self._store.check()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
