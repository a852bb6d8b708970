"""Removal of log frames: partitions that have expired are dropped as a whole, and what expires otherwise is deleted.

The database is read by other nodes meanwhile. They see frames until the transaction that removes them is committed.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from kmsd.adapters.postgres import frame_partitions
from kmsd.adapters.postgres.frame_partitions import DAY, KEPT
from kmsd.adapters.postgres.session import Session
from kmsd.ports import StoreError, StoreTimeout

ROWS = 200
"""Frames that a statement deletes or moves: more could take longer than its deadline."""
MAX_EXPIRED_AGE_MS = DAY
"""Milliseconds since expiry from which a frame is deleted, unless its partition is dropped before."""
ATTEMPTS = 5
"""Attempts to drop a partition. The next sweep tries again."""
_ALIVE = """
    FROM log_frame_{day} AS frame JOIN log_group USING (group_id)
    WHERE (retention_days IS NULL OR last_at >= $1 - retention_days * {millis})"""
_OWNERS = "SELECT DISTINCT group_id FROM log_frame_sum_{day}"
_AFFECTED = """
    SELECT DISTINCT expires_on FROM log_frame WHERE group_id = $1 AND (last_at < $2 OR stream_id = ANY($3::bytea[]))"""
_DELETE = """
    DELETE FROM log_frame_{day} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM log_frame_{day}
        WHERE group_id = $1 AND (last_at < $2 OR stream_id = ANY($3::bytea[])) LIMIT {rows}))"""
_MOVE = """
    UPDATE log_frame SET expires_on = $2 WHERE expires_on = {day} AND group_id = $1 AND frame_id = ANY(ARRAY(
        SELECT frame_id FROM log_frame_{day} WHERE group_id = $1 LIMIT {rows}))"""
# Nothing is added to the sums meanwhile: a statement that stores frames holds the table until its frames can be seen.
_SUM = """
    INSERT INTO log_frame_sum (group_id, stream_id, slot, expires_on, first_at, last_at, ingested_at, events, size)
    SELECT group_id, stream_id, 0, expires_on, min(first_at), max(last_at), max(ingested_at), sum(events), sum(size)
    FROM log_frame_{day} WHERE group_id = $1 GROUP BY group_id, stream_id, expires_on"""

log = structlog.get_logger()


async def delete(session: Session, group_id: bytes, *, before: int, dead_streams: Sequence[bytes]) -> int:
    """Delete a group's frames that expired before `before` (milliseconds), and those of dead streams.

    Return the number of partitions in which there were some.
    """
    affected = [row[0] for row in await session.fetch(_AFFECTED, group_id, before, dead_streams)]
    for day in affected:
        statement = _DELETE.format(day=day, rows=ROWS)
        while await session.execute(statement, group_id, before, dead_streams) == f"DELETE {ROWS}":
            pass
        await _sum_again(session, group_id, day)
    return len(affected)


async def delete_group(session: Session, group_id: bytes) -> None:
    """Delete everything of a group."""
    for day in await frame_partitions.days(session):
        statement = _DELETE.format(day=day, rows=ROWS)
        while await session.execute(statement, group_id, 1 << 62, []) == f"DELETE {ROWS}":
            pass
    await session.execute_confirmed("DELETE FROM log_frame_sum WHERE group_id = $1", group_id)


async def drop_expired(session: Session, now: int) -> Sequence[bytes]:
    """Drop the partitions in which everything has expired at `now` (milliseconds). Return the groups that had some.

    What a group keeps longer by now is moved to a later partition before.
    """
    dropped: set[bytes] = set()
    for day in await frame_partitions.days(session):
        if day != KEPT and day * DAY <= now:
            await _move_kept(session, day, now)
            owners = [row[0] for row in await session.fetch(_OWNERS.format(day=day))]
            if await _drop(session, day, now):
                dropped.update(owners)
    return sorted(dropped)


async def _move_kept(session: Session, day: int, now: int) -> None:
    """Move the frames of groups whose retention has become longer, or has ended."""
    alive = _ALIVE.format(day=day, millis=DAY)
    for group_id, days, last_at in await session.fetch(
        f"SELECT group_id, retention_days, max(last_at) {alive} GROUP BY group_id, retention_days", now
    ):
        later = KEPT if days is None else frame_partitions.day_of(last_at + days * DAY, now)
        await frame_partitions.create(session, {later})
        while await session.execute(_MOVE.format(day=day, rows=ROWS), group_id, later) == f"UPDATE {ROWS}":
            pass
        for changed in (day, later):
            await _sum_again(session, group_id, changed)


async def _sum_again(session: Session, group_id: bytes, day: int) -> None:
    await session.execute(f"BEGIN; LOCK TABLE log_frame_sum_{day} IN SHARE ROW EXCLUSIVE MODE")
    try:
        await session.execute(f"DELETE FROM log_frame_sum_{day} WHERE group_id = $1", group_id)
        await session.execute(_SUM.format(day=day), group_id)
        await session.execute_confirmed("COMMIT")
    except StoreError:
        await _roll_back(session)
        raise


async def _drop(session: Session, day: int, now: int) -> bool:
    """Drop a partition, unless a frame of it is kept by now. Return True if it is dropped."""
    for _ in range(ATTEMPTS):
        try:
            # All that read or store frames wait for this lock. It is given up long before the server would take a
            # statement of theirs for deadlocked.
            await session.execute(
                "BEGIN; SET LOCAL lock_timeout = '200ms'; "
                "LOCK TABLE ONLY log_frame, ONLY log_frame_sum IN ACCESS EXCLUSIVE MODE"
            )
            kept = await session.fetch(f"SELECT EXISTS (SELECT {_ALIVE.format(day=day, millis=DAY)})", now)
            if not kept[0][0]:
                await session.execute(f"DROP TABLE log_frame_{day}, log_frame_sum_{day}")
            await session.execute_confirmed("COMMIT")
        except StoreTimeout:
            await _roll_back(session)
        except StoreError:
            await _roll_back(session)
            raise
        else:
            return not kept[0][0]
    log.warning("log_partition_busy", day=day)
    return False


async def _roll_back(session: Session) -> None:
    if session.is_in_transaction:
        await session.execute("ROLLBACK")
