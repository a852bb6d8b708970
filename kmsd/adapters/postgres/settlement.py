"""Find out if a transaction was committed whose answer was lost.

The transaction inserts its id into the table `outcome` as `committed`. To settle it, another connection inserts the id
as `abandoned`, unless it is there, which waits for the transaction if that still runs, and reads which of the two is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from kmsd.adapters.postgres.reader import REPLICATED, is_confirmed
from kmsd.adapters.postgres.session import Session
from kmsd.adapters.postgres.settings import PostgresSettings
from kmsd.ports import StoreUnavailable, StoreUnfit

_PAUSE_SECONDS = 0.2
_ABANDON = """
    INSERT INTO outcome (id, what, seq) SELECT $1, 'abandoned', seq FROM change_seq ON CONFLICT DO NOTHING"""


async def was_committed(
    transaction_id: str, settings: PostgresSettings, connect: Callable[[], Awaitable[Session]]
) -> bool:
    """Return True if a transaction was committed, False if it was not and never will be.

    `connect` returns a session that can write, a new one if the last was lost. Raises `StoreUnavailable` if the outcome
    cannot be found out before the deadline of a statement.
    """
    deadline = time.monotonic() + settings.call_seconds
    while True:
        try:
            return await _settle(transaction_id, settings, await connect())
        except StoreUnfit:
            raise
        except StoreUnavailable as exc:
            if time.monotonic() >= deadline:
                raise StoreUnavailable(f"it is not known if the transaction was committed: {exc}") from exc
        await asyncio.sleep(_PAUSE_SECONDS)


async def _settle(transaction_id: str, settings: PostgresSettings, session: Session) -> bool:
    await session.execute_confirmed(_ABANDON, transaction_id)
    # What is found may be on this server alone: the verdict counts once the standby has it, too.
    more = f", {REPLICATED}" if is_confirmed(settings, session) else ""
    rows = await session.fetch_confirmed(f"SELECT what{more} FROM outcome WHERE id = $1", transaction_id)
    return bool(rows[0][0] == "committed")
