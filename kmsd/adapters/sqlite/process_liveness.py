"""Liveness locks of the processes that write to the database.

Each process that has the database open locks one byte, chosen at random, of a file beside it. Rows that announce a
token object name that byte. The kernel releases the lock when the process ends, however it ends. So `reconcile` can
settle the unfinished intents of a dead process at once instead of after a grace period.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from kmsd.linux.byte_locks import byte_is_locked, lock_byte
from kmsd.ports import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

_PLACES = 2**62


class LivenessLocks:
    """Lock of this process, and check of other processes' locks. Locks belong to the open file, not to the thread."""

    def __init__(self, database: Path) -> None:
        try:
            self._descriptor = os.open(
                database.with_name(f"{database.name}-makers"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StoreUnavailable(
                f"the file of makers beside {database} cannot be opened: {error.strerror}"
            ) from error
        self.token = secrets.randbelow(_PLACES)
        while not lock_byte(self._descriptor, self.token):
            self.token = secrets.randbelow(_PLACES)

    def is_gone(self, owner: int | None) -> bool:
        """True if the process that locked this byte has certainly ended. False for None: nothing is known then."""
        if owner is None or owner == self.token:
            return False
        return not byte_is_locked(self._descriptor, owner)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
