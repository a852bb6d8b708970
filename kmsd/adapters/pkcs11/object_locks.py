"""Locks that keep an object from being destroyed while a call of this process uses it.

PKCS#11 does not define what happens to a call whose key another thread destroys. SoftHSM 2.6.1 crashes the process,
which serves every key. kmsd does destroy keys in use: a wrapping key is destroyed after its last failed import while
other imports still use it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kmsd.ports import TokenBusy


class ObjectLocks:
    """Object locks of one process, for calls that run on threads. Waits raise `TokenBusy` after `timeout` seconds."""

    def __init__(self) -> None:
        # Used directly where no thread waits: the condition's methods are Python, and slow.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._users: dict[bytes, int] = {}
        self._destroying: set[bytes] = set()

    def acquire(self, object_id: bytes | None, timeout: float) -> None:
        """Use an object (None: none) until `release`. Waits if the object is being destroyed."""
        if object_id is None:
            return
        with self._lock:
            if self._destroying:
                self._wait_while_destroying(object_id, timeout)
            self._users[object_id] = self._users.get(object_id, 0) + 1

    def try_acquire(self, object_id: bytes) -> bool:
        """Use an object until `release`. Return False, without waiting, if it is being destroyed."""
        with self._lock:
            if object_id in self._destroying:
                return False
            self._users[object_id] = self._users.get(object_id, 0) + 1
            return True

    def release(self, object_id: bytes | None) -> None:
        """End a use that `acquire` or `try_acquire` began."""
        if object_id is None:
            return
        with self._lock:
            users = self._users[object_id] - 1
            if users:
                self._users[object_id] = users
            else:
                del self._users[object_id]
                if self._destroying:
                    self._changed.notify_all()

    @contextmanager
    def destroying(self, object_id: bytes, timeout: float) -> Iterator[None]:
        """Refuse new uses of an object, and wait for the present ones to end."""
        with self._changed:
            self._wait_while_destroying(object_id, timeout)
            self._destroying.add(object_id)
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: object_id not in self._users, timeout):
                    raise TokenBusy("calls that use the object do not end")
            yield
        finally:
            with self._changed:
                self._destroying.discard(object_id)
                self._changed.notify_all()

    def _wait_while_destroying(self, object_id: bytes, timeout: float) -> None:
        if not self._changed.wait_for(lambda: object_id not in self._destroying, timeout):
            raise TokenBusy("the object is being destroyed")
