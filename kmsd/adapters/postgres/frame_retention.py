"""Removal of log frames: partitions that have expired are dropped as a whole, and what expires otherwise is deleted.

Other nodes read and store frames meanwhile. Whatever changes frames changes their sums in the same statement, in a row
of its own (`_CHANGES`). So sums can be relied on: a partition, which may be large, is never read as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from kmsd.adapters.postgres import frame_partitions
from kmsd.adapters.postgres.frame_partitions import DAY, KEPT
from kmsd.adapters.postgres.session import Session
from kmsd.ports import StoreTimeout

ROWS = 200
"""Frames that a statement deletes or moves: more could take longer than its deadline."""
MAX_EXPIRED_AGE_MS = DAY
"""Milliseconds since expiry from which a frame is deleted, unless its partition is dropped before."""
ATTEMPTS = 5
"""Attempts to drop a partition. The next sweep tries again."""
_CHANGES = -1
"""Slot of the sums of what was deleted and moved."""
_NO_FIRST = 1 << 62
"""`first_at` of sums that say nothing about times; their `last_at` is 0."""
# Both values of `is_long` are named, so that the index is used.
_EXPIRED = "is_long = ANY('{{false,true}}') AND last_at < $2"
_DEAD = "stream_id = ANY($2::bytea[])"
_AFFECTED = """
    SELECT day FROM unnest($3::bigint[]) AS day
    WHERE EXISTS (SELECT FROM log_frame WHERE group_id = $1 AND expires_on = day AND {which})"""
_SUMS = "log_frame_sum (group_id, stream_id, slot, expires_on, first_at, last_at, ingested_at, events, size)"
_ADD_SUMS = """
    ON CONFLICT (group_id, stream_id, slot, expires_on) DO UPDATE SET
        first_at = least(log_frame_sum.first_at, excluded.first_at),
        last_at = greatest(log_frame_sum.last_at, excluded.last_at),
        ingested_at = greatest(log_frame_sum.ingested_at, excluded.ingested_at),
        events = log_frame_sum.events + excluded.events, size = log_frame_sum.size + excluded.size"""
_SUBTRACTED = f"""
    subtracted AS (
        INSERT INTO {_SUMS}
        SELECT $1, stream_id, {_CHANGES}, {{day}}, {_NO_FIRST}, 0, 0, -sum(events), -sum(size)
        FROM gone GROUP BY stream_id ORDER BY stream_id
        {_ADD_SUMS}
    )"""
_DELETE = f"""
    WITH gone AS (
        DELETE FROM log_frame_{{day}} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM log_frame_{{day}} WHERE group_id = $1 AND {{which}} LIMIT {ROWS}))
        RETURNING stream_id, events, size
    ), {_SUBTRACTED}
    SELECT count(*), array_agg(DISTINCT stream_id) FROM gone"""
_MOVE = f"""
    WITH gone AS (
        UPDATE log_frame SET expires_on = $2 WHERE expires_on = {{day}} AND group_id = $1 AND frame_id = ANY(ARRAY(
            SELECT frame_id FROM log_frame_{{day}} WHERE group_id = $1 LIMIT {ROWS}))
        RETURNING stream_id, first_at, last_at, ingested_at, events, size
    ), {_SUBTRACTED}, added AS (
        INSERT INTO {_SUMS}
        SELECT $1, stream_id, {_CHANGES}, $2, min(first_at), max(last_at), max(ingested_at), sum(events), sum(size)
        FROM gone GROUP BY stream_id ORDER BY stream_id
        {_ADD_SUMS}
    )
    SELECT count(*) FROM gone"""
_EMPTY = """
    DELETE FROM log_frame_sum_{day} WHERE group_id = $1 AND stream_id IN (
        SELECT stream_id FROM log_frame_sum_{day} WHERE group_id = $1 AND stream_id = ANY($2::bytea[])
        GROUP BY stream_id HAVING sum(events) = 0)"""
_FIRST = """
    UPDATE log_frame_sum_{day} AS present SET first_at = greatest(present.first_at, earliest.first_at)
    FROM unnest($2::bytea[]) AS stream (stream_id) CROSS JOIN LATERAL (
        SELECT min(first_at) AS first_at FROM log_frame_{day}
        WHERE group_id = $1 AND stream_id = stream.stream_id AND is_long = ANY('{{false,true}}')) AS earliest
    WHERE present.group_id = $1 AND present.stream_id = stream.stream_id"""
_OWNERS = "SELECT group_id FROM log_frame_sum_{day} GROUP BY group_id HAVING sum(events) > 0"
_ALIVE = f"""
    SELECT group_id, retention_days, max(last_at) FROM log_frame_sum_{{day}} JOIN log_group USING (group_id)
    GROUP BY group_id, retention_days
    HAVING sum(events) > 0 AND (retention_days IS NULL OR max(last_at) >= $1 - retention_days * {DAY})"""

log = structlog.get_logger()


async def delete_expired(session: Session, group_id: bytes, before: int) -> Collection[int]:
    """Delete a group's frames of which all events are older than `before` (milliseconds).

    Return the days of the partitions in which there were some.
    """
    return await _delete(session, group_id, _EXPIRED, before)


async def delete_streams(session: Session, group_id: bytes, streams: Sequence[bytes]) -> Collection[int]:
    """Delete the frames of streams. Return the days of the partitions in which there were some."""
    return await _delete(session, group_id, _DEAD, streams)


async def _delete(session: Session, group_id: bytes, which: str, value: object) -> Collection[int]:
    which = which.format()
    every = await frame_partitions.days(session)
    affected = [row[0] for row in await session.fetch(_AFFECTED.format(which=which), group_id, value, every)]
    for day in affected:
        statement, streams, count = _DELETE.format(day=day, which=which), set[bytes](), ROWS
        while count == ROWS:
            ((count, some),) = await session.fetch(statement, group_id, value)
            streams.update(some or ())
        await _correct_times(session, group_id, sorted(streams), day)
    return affected


async def _correct_times(session: Session, group_id: bytes, streams: Sequence[bytes], day: int) -> None:
    """Set the earliest time of streams that have lost frames, and forget those that have none left.

    Nothing is added to the sums meanwhile: a statement that stores frames holds the table until its frames can be seen.
    """
    await session.execute(f"BEGIN; LOCK TABLE log_frame_sum_{day} IN SHARE ROW EXCLUSIVE MODE")
    for statement in (_EMPTY, _FIRST):
        await session.execute(statement.format(day=day), group_id, streams)
    await session.execute_confirmed("COMMIT")


async def delete_group(session: Session, group_id: bytes) -> None:
    """Delete everything of a group."""
    for day in await frame_partitions.days(session):
        count = ROWS
        while count == ROWS:
            ((count, _),) = await session.fetch(_DELETE.format(day=day, which="true"), group_id)
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
    for group_id, days, last_at in await session.fetch(_ALIVE.format(day=day), now):
        later = KEPT if days is None else frame_partitions.day_of(last_at + days * DAY, now)
        await frame_partitions.create(session, {later})
        count = ROWS
        while count == ROWS:
            ((count,),) = await session.fetch(_MOVE.format(day=day), group_id, later)


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
            is_kept = bool(await session.fetch(_ALIVE.format(day=day), now))
            if not is_kept:
                await session.execute(f"DROP TABLE log_frame_{day}, log_frame_sum_{day}")
            await session.execute_confirmed("COMMIT")
        except StoreTimeout:
            await session.execute("ROLLBACK")
        else:
            return not is_kept
    log.warning("log_partition_busy", day=day)
    return False
