"""Build the indexes of a migration before its transaction, while the nodes serve.

`CREATE INDEX` stops all writers of the table until it is done, a minute with ten million rows. `CONCURRENTLY` does
not, and cannot run in a transaction. An index that was interrupted is left invalid, and is built again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from kmsd.adapters.postgres.session import Session

_INDEX = re.compile(r"^CREATE INDEX IF NOT EXISTS (\w+) (ON [^;]+);", re.MULTILINE)
_INVALID = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)"
_LOCK_TIMEOUT = "10min"
"""Time for which a build waits for transactions that are older, as of a backup."""
_REPEAT_SECONDS = 0.2


async def acquire_turn(session: Session, lock: int) -> None:
    """Take the advisory lock of migrations for the session.

    A wait inside the server would have a snapshot, and the build in the session that has the lock waits for those.
    """
    while not (await session.fetch("SELECT pg_try_advisory_lock($1)", lock))[0][0]:  # noqa: ASYNC110 (another process)
        await asyncio.sleep(_REPEAT_SECONDS)


async def build(session: Session, scripts: Iterable[str]) -> None:
    """Build the indexes that migrations create `IF NOT EXISTS`. Raises `StoreUnavailable`."""
    found = [(one[1], one[2]) for script in scripts for one in _INDEX.finditer(script)]
    if not found:
        return
    await session.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    for name, definition in found:
        if (await session.fetch(_INVALID, name))[0][0]:
            await session.execute(f"DROP INDEX CONCURRENTLY {name}")
        await session.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} {definition}")
    await session.execute("RESET lock_timeout")
