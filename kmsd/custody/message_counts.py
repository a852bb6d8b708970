"""Count of messages that are encrypted by AES-256-GCM with random nonces, for tokens that cannot derive keys.

With random 96-bit nonces a key may encrypt at most 2^32 messages (NIST SP 800-38D, section 8.3). A process reserves
messages in the store before it uses them up, so that no crash loses count; what it does not use is lost. The job that
rotates keys gives a key new material at half the bound. Material that cannot be rotated is refused at the bound.
XAES-256-GCM needs no count: its nonces have 192 bits.
"""

from __future__ import annotations

import asyncio

from kmsd.errors import KeyUnavailableException
from kmsd.ports import Store

MAX_MESSAGES = 2**32
ROTATE_AT_MESSAGES = MAX_MESSAGES // 2
RESERVED_MESSAGES = 65_536
"""Messages that a process reserves at a time: one write to the store for so many."""
AHEAD_MESSAGES = 4_096
"""Messages that may be encrypted while a reservation is being written. A crash in that time does not count them."""
EXHAUSTED = (
    "The key material has encrypted as many messages as AES-GCM with random nonces allows. "
    "Rotate the key, or import new material into another one."
)
SERVICE = "service:"
"""Beginning of the owner of an object that is the daemon's own. It is reported by `kmsd check`, and not refused."""


class MessageCounts:
    """The reservations of one process. All methods belong to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left: dict[bytes, int] = {}
        """Messages that may be encrypted before the next reservation is needed; below 0: it is waited for."""
        self._reserving: dict[bytes, asyncio.Task[None]] = {}
        self._exhausted: set[bytes] = set()

    async def reserve(self, object_id: bytes) -> None:
        """Count one message. Raises KeyUnavailableException at the bound, and `StoreError` if it cannot be counted."""
        if object_id in self._exhausted:
            raise KeyUnavailableException(EXHAUSTED)
        left = self._left.get(object_id, 0)
        if left <= AHEAD_MESSAGES:
            task = self._reserving.get(object_id)
            if task is None:
                task = self._reserving[object_id] = asyncio.create_task(self._reserve(object_id))
                # Who does not wait for it sees its error at the next reservation.
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            if left <= -AHEAD_MESSAGES:
                await asyncio.shield(task)
        self._left[object_id] = self._left.get(object_id, 0) - 1

    async def _reserve(self, object_id: bytes) -> None:
        try:
            async with self._store.write() as transaction:
                known = await transaction.token_object(object_id)
                total = await transaction.reserve_messages(object_id, RESERVED_MESSAGES)
        finally:
            del self._reserving[object_id]
        if total > MAX_MESSAGES and known is not None and not known.owner.startswith(SERVICE):
            self._exhausted.add(object_id)
            raise KeyUnavailableException(EXHAUSTED)
        self._left[object_id] = self._left.get(object_id, 0) + RESERVED_MESSAGES

    async def close(self) -> None:
        """Wait for the reservations under way."""
        await asyncio.gather(*self._reserving.values(), return_exceptions=True)
