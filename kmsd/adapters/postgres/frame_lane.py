"""Storing of log frames: those that arrive while a statement runs are stored together by the next one.

A frame needs no turn among the transactions that write (`change_seq`): no process caches frames, and only readers of
frames depend on them. A statement that is committed is seen by every question that is asked later, on all nodes. Each
statement is a transaction of its own. It looks for the node's row, and notes its outcome, as the others do.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from kmsd.adapters.postgres import frame_partitions, schema, settlement
from kmsd.adapters.postgres.access import Member
from kmsd.adapters.postgres.connector import Connector
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.ports import StoreConflict, StoreError, StoreUnavailable

MAX_BYTES = 1_048_576
"""Bytes of encrypted events in a statement, unless one frame has more. Larger statements store fewer in a second."""
SLOTS = 8
"""Rows of sums for a stream in a partition. Two processes with one slot wait for each other's statements."""
# The outcome of the statement before is known: it will not be asked for again.
_STORE = """
    WITH forgotten AS (DELETE FROM outcome WHERE id = $2),
    noted AS (
        INSERT INTO outcome (id, what, seq) SELECT $1, 'committed', seq FROM change_seq
        WHERE $3 = '' OR EXISTS (SELECT FROM node WHERE node_id = $3) RETURNING id
    ),
    summed AS (
        INSERT INTO log_frame_sum
            (group_id, stream_id, slot, expires_on, first_at, last_at, ingested_at, events, size)
        SELECT group_id, stream_id, $4, expires_on, min(first_at), max(last_at), max(ingested_at), sum(events),
            sum(size)
        FROM unnest($5::bytea[], $6::bytea[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
            $15::bigint[])
            AS frame (group_id, stream_id, first_at, last_at, ingested_at, events, size, expires_on), noted
        GROUP BY group_id, stream_id, expires_on ORDER BY group_id, stream_id, expires_on
        ON CONFLICT (group_id, stream_id, slot, expires_on) DO UPDATE SET
            first_at = least(log_frame_sum.first_at, excluded.first_at),
            last_at = greatest(log_frame_sum.last_at, excluded.last_at),
            ingested_at = greatest(log_frame_sum.ingested_at, excluded.ingested_at),
            events = log_frame_sum.events + excluded.events, size = log_frame_sum.size + excluded.size
    )
    INSERT INTO log_frame (group_id, stream_id, data_key_id, frame_id, first_at, last_at, ingested_at, events, size,
        packing, expires_on, kms_key, context_arn, wrapped_key, sealed)
    SELECT group_id, stream_id, data_key_id, frame_id, first_at, last_at, ingested_at, events, size, packing,
        expires_on, kms_key, context_arn, wrapped_key, sealed
    FROM unnest($5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bigint[], $10::bigint[],
        $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::text[], $17::text[],
        $18::bytea[], $19::bytea[]) AS frame (group_id, stream_id, data_key_id, frame_id, first_at, last_at,
        ingested_at, events, size, packing, expires_on, kms_key, context_arn, wrapped_key, sealed), noted"""


class _Waiting(NamedTuple):
    group_id: bytes
    frame: Frame
    expires_on: int
    data_key: WrappedKey
    sealed: bytes
    done: asyncio.Future[None]

    @property
    def row(self) -> tuple[object, ...]:
        key = self.data_key
        return (self.group_id, *self.frame, self.expires_on, key.kms_key, key.context_arn, key.blob, self.sealed)


class FrameLane:
    """Stores the frames of one process, on one connection. Must be used from one event loop."""

    def __init__(
        self, member: Member, settings: PostgresSettings, connector: Connector, on_waiting: Callable[[], object]
    ) -> None:
        """Connect at the first frame. `on_waiting` as for `Session`."""
        self._on_waiting = on_waiting
        self._member, self._settings, self._connector = member, settings, connector
        self._slot = secrets.randbelow(SLOTS)
        self._session: Session | None = None
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self._settled = ""
        """Id of the last transaction whose outcome is known to this process."""
        self._days: set[int] = set()
        """Partitions that are known to exist."""

    async def append(self, group_id: bytes, frame: Frame, sealed: bytes, data_key: WrappedKey, expires_at: int) -> None:
        """Store a frame; durable on return. Raises `StoreError`: nothing was stored, or the outcome cannot be known."""
        expires_on = frame_partitions.day_of(expires_at, frame.ingested_at)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(group_id, frame, expires_on, data_key, sealed, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="kmsd-frames")
        await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                try:
                    await self._put(batch)
                except StoreUnavailable as exc:
                    # What waits would wait for the same server, one deadline after the other. Nothing of it was sent.
                    batch += self._waiting
                    self._waiting = []
                    _resolve(batch, exc)
                except Exception as exc:  # noqa: BLE001 (every error is that of all whose frames are in the statement)
                    _resolve(batch, exc)
                else:
                    _resolve(batch, None)
        finally:
            self._flushing = None

    def _next(self) -> list[_Waiting]:
        """Take the first frame, and as many after it as fit a statement."""
        room, count = MAX_BYTES, 0
        for count, waiting in enumerate(self._waiting):
            room -= len(waiting.sealed)
            if room < 0 and count:
                break
        else:
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _put(self, batch: Sequence[_Waiting]) -> None:
        wanted = {waiting.expires_on for waiting in batch}
        await self._require_partitions(wanted)
        try:
            await self._store(batch)
        except StoreConflict:
            # A job has dropped a partition that had expired, because a clock is late or a frame was.
            self._days.clear()
            await self._require_partitions(wanted)
            await self._store(batch)

    async def _require_partitions(self, wanted: Collection[int]) -> None:
        if not self._days.issuperset(wanted):
            await frame_partitions.create(await self._connected(), wanted)
            self._days.update(wanted)

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        session, transaction_id = await self._connected(), secrets.token_hex(16)
        columns = map(list, zip(*(waiting.row for waiting in batch), strict=True))
        fixed = (transaction_id, self._settled, self._member.node_id, self._slot)
        try:
            tag = await session.execute_confirmed(_STORE, *fixed, *columns)
        except StoreConflict:
            raise
        except StoreUnavailable as exc:
            session.end()
            if not await settlement.was_committed(transaction_id, self._settings, self._connected):
                raise StoreUnavailable(f"the events were not stored: {exc}") from exc
        else:
            self._member.require_known(is_known=tag == f"INSERT 0 {len(batch)}")
        self._settled = transaction_id

    async def _connected(self) -> Session:
        """Return the session, after connecting again if it is lost."""
        if self._session is None or self._session.is_lost:
            self._session = await schema.open_session(self._connector, self._settings.call_seconds, self._on_waiting)
        return self._session

    def end(self) -> None:
        """End the connection. What is being stored is settled on a new one."""
        if self._session is not None:
            self._session.end()

    async def close(self) -> None:
        """Store what waits, and end the connection."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        self.end()


def _resolve(batch: Sequence[_Waiting], exc: Exception | None) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue
        if exc is None:
            waiting.done.set_result(None)
        elif isinstance(exc, StoreError):
            # One for each: callers add to its traceback.
            error = StoreUnavailable(str(exc))
            error.__cause__ = exc
            waiting.done.set_exception(error)
        else:
            waiting.done.set_exception(exc)
