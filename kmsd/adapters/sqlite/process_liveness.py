"""Which processes that wrote to the database are alive.

Each process that has the database open holds a lock on one byte of a file beside it, at a place that it chose at
random; rows that announce an object name that place. The kernel lets go of the lock when the process ends, however it
ends, so an intent whose maker is gone can be settled at once instead of after a period of grace.
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
    """The lock of this process, and a look at those of others. Locks belong to the open file, not to the thread."""

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
        """Whether the process of this place is certain to have ended. Of none nothing is certain."""
        if owner is None or owner == self.token:
            return False
        return not byte_is_locked(self._descriptor, owner)

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)
