"""Count of messages encrypted by AES-256-GCM with random nonces, for tokens that do not encrypt by XAES-256-GCM.

With random nonces a key may encrypt at most 2^32 messages, and nonces of 128 bits do not lift that bound (NIST SP
800-38D, section 8.3). A process reserves messages in the store before it uses them, so that a crash does not lose
count; unused ones are lost. The rotation job rotates a key at half the bound. Material that cannot be rotated is
refused at the bound. XAES-256-GCM needs no count: its nonces have 192 bits.
"""

from __future__ import annotations

import asyncio

from kmsd.errors import KeyUnavailableException
from kmsd.ports import Store

MAX_MESSAGES = 2**32
ROTATE_AT_MESSAGES = MAX_MESSAGES // 2
RESERVED_MESSAGES = 65_536
"""Messages that a process reserves with one write to the store."""
AHEAD_MESSAGES = 4_096
"""Messages that may be encrypted before and while a reservation is written. A crash in that time loses their count."""
EXHAUSTED = (
    "The key material has encrypted as many messages as AES-GCM with random nonces allows. "
    "Rotate the key, or import new material into another one."
)
SERVICE = "service:"
"""Prefix of the owner of the daemon's own objects. At the bound `kmsd check` reports them, and they keep working."""


class MessageCounts:
    """The reservations of one process. All methods belong to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left: dict[bytes, int] = {}
        """Messages left of the reservations. May become negative, down to -`AHEAD_MESSAGES`, while one is written."""
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
                # Retrieve its error here. A call that does not wait sees the error of the next reservation.
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
        """Wait for the reservations in progress."""
        await asyncio.gather(*self._reserving.values(), return_exceptions=True)
