"""An object is not destroyed while a call of this process works with it.

PKCS#11 leaves open what becomes of a call whose key is destroyed beside it, and SoftHSM 2.6.1 has been seen to crash,
with every key that the process serves: a wrapping key is destroyed after its last failure, while others are trying.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kmsd.ports import TokenBusy


class ObjectLocks:
    """Of one process; for calls that run in threads. What waits raises `TokenBusy` after `timeout` seconds."""

    def __init__(self) -> None:
        # Taken as it is where nobody waits: the condition's own methods are Python.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._users: dict[bytes, int] = {}
        self._doomed: set[bytes] = set()

    def acquire(self, object_id: bytes | None, timeout: float) -> None:
        """Work with an object (None: with none) until `end`; first let one be destroyed whose end has begun."""
        if object_id is None:
            return
        with self._lock:
            if self._doomed:
                self._wait_until_spared(object_id, timeout)
            self._users[object_id] = self._users.get(object_id, 0) + 1

    def try_acquire(self, object_id: bytes) -> bool:
        """Work with an object until `end`, unless its destruction has begun: then return False, without waiting."""
        with self._lock:
            if object_id in self._doomed:
                return False
            self._users[object_id] = self._users.get(object_id, 0) + 1
            return True

    def release(self, object_id: bytes | None) -> None:
        """Work with it no more."""
        if object_id is None:
            return
        with self._lock:
            users = self._users[object_id] - 1
            if users:
                self._users[object_id] = users
            else:
                del self._users[object_id]
                if self._doomed:
                    self._changed.notify_all()

    @contextmanager
    def destroying(self, object_id: bytes, timeout: float) -> Iterator[None]:
        """Let nobody begin to work with an object, and wait for those who do."""
        with self._changed:
            self._wait_until_spared(object_id, timeout)
            self._doomed.add(object_id)
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: object_id not in self._users, timeout):
                    raise TokenBusy("calls that use the object do not end")
            yield
        finally:
            with self._changed:
                self._doomed.discard(object_id)
                self._changed.notify_all()

    def _wait_until_spared(self, object_id: bytes, timeout: float) -> None:
        if not self._changed.wait_for(lambda: object_id not in self._doomed, timeout):
            raise TokenBusy("the object is being destroyed")
