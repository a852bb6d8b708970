"""Segments as partitions of a table; implements `kmsd.cloudwatch_logs.ports.Segments`.

Frames are sealed before they come here: the database never has an event in the clear.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from kmsd.adapters.postgres import frame_retention, schema
from kmsd.adapters.postgres.frame_queries import Place, place_of
from kmsd.adapters.postgres.frame_retention import MAX_EXPIRED_AGE_MS
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.cloudwatch_logs.ports import (
    DropResult,
    FrameQuery,
    LogStore,
    SegmentDamaged,
    SegmentsUnavailable,
    StoredFrame,
    StreamSummary,
)
from kmsd.ports import StoreError

FIRST_PAGE, LARGEST_PAGE = 32, 512
"""Frames that a search fetches at first, and at most."""
_MOVED = "events were moved or removed while they were read"


@contextmanager
def translated() -> Iterator[None]:
    """Translate the store's errors to `SegmentsUnavailable`."""
    try:
        yield
    except StoreError as exc:
        raise SegmentsUnavailable(str(exc)) from exc


class PostgresSegments:
    """Implements `kmsd.cloudwatch_logs.ports.Segments`. A segment's name is the day of its partition."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    @classmethod
    def of(cls, store: LogStore) -> PostgresSegments:
        """Return the segments in the database of an open store."""
        if not isinstance(store, PostgresStore):
            raise TypeError(f"{type(store).__name__} is no store in PostgreSQL")
        return cls(store)

    async def append(
        self, group_id: bytes, frame: Frame, sealed: bytes, data_key: WrappedKey, *, expires_at: int = 0
    ) -> None:
        with translated():
            await self._store.lane.append(group_id, frame, sealed, data_key, expires_at)

    async def find(self, group_id: bytes, wanted: FrameQuery) -> AsyncIterator[StoredFrame]:
        beyond: Place | None = None
        count = FIRST_PAGE
        while True:
            with translated():
                page = await (await self._store.frames()).find(group_id, wanted, beyond, count)
            for stored in page:
                yield stored
            if len(page) < count:
                return
            beyond, count = place_of(page[-1], descending=wanted.descending), min(2 * count, LARGEST_PAGE)

    async def read(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Sequence[bytes]:
        with translated():
            found = await self._store.frames_found.contents(group_id, frames)
        if any(stored.frame.frame_id not in found for stored in frames):
            raise SegmentsUnavailable(_MOVED)
        return [found[stored.frame.frame_id] for stored in frames]

    async def data_keys(self, group_id: bytes, frames: Sequence[StoredFrame]) -> Mapping[bytes, WrappedKey]:
        one_each = {stored.frame.data_key_id: stored for stored in frames}
        with translated():
            found = await self._store.frames_found.data_keys(group_id, list(one_each.values()))
        if found.keys() != one_each.keys():
            raise SegmentsUnavailable(_MOVED)
        return found

    async def summaries(self, group_id: bytes) -> Mapping[bytes, StreamSummary]:
        with translated():
            return await (await self._store.frames()).summaries(group_id)

    async def sync(self, group_id: bytes) -> None:
        del group_id
        # The question waits until a standby, if one is waited for, has what was committed before.
        with translated():
            await self._store.frames()

    async def delete_group(self, group_id: bytes) -> None:
        with translated():
            async with self._connected() as session:
                await frame_retention.delete_group(session, group_id)

    async def apply_retention(self, group_id: bytes, *, before: int, dead_streams: frozenset[bytes]) -> DropResult:
        with translated():
            async with self._connected() as session:
                expired = await frame_retention.delete_expired(session, group_id, before - MAX_EXPIRED_AGE_MS)
                dead = await frame_retention.delete_streams(session, group_id, sorted(dead_streams))
        return DropResult(rewritten=len({*expired, *dead}))

    async def drop_expired(self, now: int) -> Sequence[bytes]:
        with translated():
            async with self._connected() as session:
                return await frame_retention.drop_expired(session, now)

    async def maintain(self, now: int) -> None:
        del now  # partitions are created when they are needed

    async def put_result(self, query_id: str, content: bytes) -> None:
        with translated():
            await (await self._store.frames()).put_result(query_id, content)

    async def get_result(self, query_id: str) -> bytes:
        with translated():
            found = await (await self._store.frames()).get_result(query_id)
        if found is None:
            raise SegmentDamaged(f"result {query_id}")
        return found

    async def delete_result(self, query_id: str) -> None:
        with translated():
            await (await self._store.frames()).delete_result(query_id)

    async def check(self) -> None:
        with translated():
            await self._store.check()

    async def close(self) -> None:
        await self._store.lane.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Session]:
        """Connect for work that takes long."""
        session = await schema.open_session(self._store.connector, self._store.settings.call_seconds)
        try:
            yield session
        finally:
            session.end()
