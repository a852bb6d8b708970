"""The adapters of segments, each as two processes have the same segments open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from kmsd.adapters.postgres.segments import PostgresSegments
from kmsd.cloudwatch_logs.ports import Segments
from kmsd.cloudwatch_logs.segments.store import FileSegments
from tests.contract import stores

Pair = tuple[Segments, Segments]


@asynccontextmanager
async def files(folder: Path) -> AsyncIterator[Pair]:
    """A fresh folder."""
    opened = FileSegments(folder / "logs"), FileSegments(folder / "logs")
    yield opened
    for segments in opened:
        await segments.close()


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Pair]:
    """A fresh database of a real server."""
    async with stores.postgres(folder) as (first, second):
        opened = PostgresSegments.of(first), PostgresSegments.of(second)
        yield opened
        for segments in opened:
            await segments.close()


SEGMENTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Pair]]] = {"files": files, "postgres": postgres}
"""A new adapter is added here, and passes every test that asks for `pair`."""
