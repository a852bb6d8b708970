"""The store adapters, each as two processes have one store open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.ports import Store
from tests.support.postgres import cluster

Pair = tuple[Store, Store]


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Pair]:
    """A fresh database."""
    connection.create(folder / "kmsd.sqlite")
    opened = SqliteStore(folder / "kmsd.sqlite"), SqliteStore(folder / "kmsd.sqlite")
    yield opened
    for store in opened:
        await store.close()


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Pair]:
    """A fresh database of a real server."""
    del folder
    settings = cluster().database()
    await schema.create(settings)
    opened = await PostgresStore.open(settings), await PostgresStore.open(settings)
    yield opened
    for store in opened:
        await store.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Pair]]] = {
    "sqlite": sqlite,
    "postgres": postgres,
}
"""A new adapter is added here, and passes every test that asks for `stores`."""
