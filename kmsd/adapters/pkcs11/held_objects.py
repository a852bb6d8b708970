"""Session objects of one login that calls use at the same time, and that end when no call uses them any more.

PKCS#11 does not define what happens to a call whose key another thread destroys: SoftHSM 2.6.1 returns errors that look
like lasting faults, or crashes. So a retired object is destroyed when the last call has released it. The objects belong
to a session of their own, which stays open until the login ends.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.session_pool import Session


class ObjectSession:
    """The session that owns the objects of a login. Calls on it are made one at a time, with `lock`."""

    __slots__ = ("lock", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lock = threading.Lock()

    @property
    def handle(self) -> int:
        """Handle of the session."""
        return self.session.handle

    def replace(self, session: Session) -> Session:
        """Use another session from now on. Return the old one, which may be dead, and with it every object."""
        with self.lock:
            old, self.session = self.session, session
            return old


class HeldObject:
    """A session object; `users` calls hold it."""

    __slots__ = ("handle", "retired", "users")

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.users = 0
        self.retired = False


Held = TypeVar("Held", bound=HeldObject)


class HeldObjects(Generic[Held]):
    """Bookkeeping of one kind. Safe for several threads; `_lock` is never held during a call into the module."""

    def __init__(self, raw: RawModule, owner: ObjectSession) -> None:
        self._raw = raw
        self._owner = owner
        self._lock = threading.Lock()
        self._retired: deque[Held] = deque()
        self.hits = 0
        self.misses = 0

    def _forget(self, held: Held) -> None:
        """Remove an object from the indexes, so that no new call gets it. The caller holds `_lock`."""
        raise NotImplementedError

    def _kept(self) -> list[Held]:
        """Return the objects that are kept. The caller holds `_lock`."""
        raise NotImplementedError

    def done(self, held: Held) -> None:
        """Release a held object."""
        with self._lock:
            held.users -= 1
            if held.retired and held.users == 0:
                self._retired.append(held)

    def _retire(self, held: Held) -> None:
        """Retire an object. The caller holds `_lock`."""
        self._forget(held)
        if not held.retired:
            held.retired = True
            if held.users == 0:
                self._retired.append(held)

    def retire_all(self) -> None:
        """Retire every object."""
        with self._lock:
            for held in self._kept():
                self._retire(held)

    def drop_all(self) -> None:
        """Retire every object without destroying it: their session has ended."""
        self.retire_all()
        self._retired.clear()

    @property
    def retired_count(self) -> int:
        """Number of retired objects still in the token and not held by a call."""
        return len(self._retired)

    def destroy_retired(self) -> None:
        """Destroy in the token the retired objects that no call holds. Raises `CkrError`."""
        while self._retired:
            try:
                held = self._retired.popleft()
            except IndexError:
                return
            with self._owner.lock:
                try:
                    self._raw.destroy(self._owner.handle, held.handle)
                except CkrError as error:
                    # The object is gone already, with its session or its login.
                    if error.error_class not in (ErrorClass.HANDLE, ErrorClass.SESSION, ErrorClass.LOGIN):
                        raise
