"""Partitions of log frames: each holds what expires on one day, or within a few.

A frame goes to the day on which its group's retention, as it is now, ends for all of its events. Long retention is
divided into fewer days: a search looks into every partition, and the server has room for a limited number of locks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kmsd.adapters.postgres.session import Session

DAY = 86_400_000
"""Milliseconds."""
KEPT = 0
"""Day of what does not expire."""
MOST_DAYS = 32
"""Partitions into which a retention is divided at most, roughly: up to so many days, each day has its own."""
_LOCK = 0x6B6D736C
"""Advisory lock of those that create partitions: `kmsl` in ASCII."""
_DAYS = """
    SELECT substr(relname, length('log_frame_') + 1)::bigint FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'log_frame'::regclass ORDER BY 1"""
# Attaching a table needs a weaker lock than creating a partition: no statement waits for it.
_CREATE = """
    CREATE TABLE log_frame_{day}
        (LIKE log_frame INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE);
    ALTER TABLE log_frame ATTACH PARTITION log_frame_{day} FOR VALUES IN ({day});
    CREATE TABLE log_frame_sum_{day} (LIKE log_frame_sum) WITH (fillfactor = 50);
    ALTER TABLE log_frame_sum ATTACH PARTITION log_frame_sum_{day} FOR VALUES IN ({day})"""


def day_of(expires_at: int, now: int) -> int:
    """Return the day of the partition for a frame that expires at `expires_at` (milliseconds; 0: never).

    The day has begun when the frame has expired, and not long before.
    """
    if expires_at == 0:
        return KEPT
    step = 1
    while expires_at - now > step * MOST_DAYS * DAY:
        step *= 2
    return -(-expires_at // (step * DAY)) * step


async def days(session: Session) -> Sequence[int]:
    """Return the days of all partitions."""
    return [row[0] for row in await session.fetch(_DAYS)]


async def create(session: Session, wanted: Collection[int]) -> None:
    """Create those of the partitions that are missing. Raises `StoreError`, and ends the session then.

    What is stored afterwards must not be within the transaction of an attempt that failed.
    """
    try:
        await session.execute("BEGIN")
        await session.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK)
        present = await days(session)
        for day in sorted(set(wanted).difference(present)):
            await session.execute(_CREATE.format(day=day))
        await session.execute_confirmed("COMMIT")
    except BaseException:
        session.end()
        raise
