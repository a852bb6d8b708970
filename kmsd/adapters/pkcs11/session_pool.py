"""Session pool of one login. Sessions, handles and derived keys become invalid together when the login ends.

Login applies to the whole process. One session, the keeper, logs in; it is never lent, nor closed while the login
lasts. The others open without PIN, and closing them does not log out. After any error other than invalid data a session
is closed, not lent again: some modules leave the failed operation active.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pkcs11.exceptions import PKCS11Error

from kmsd.adapters.pkcs11.gcm_scratch import GIVEN_12, Scratches
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass, of_binding
from kmsd.ports import TokenBusy, TokenInfo, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import pkcs11

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.module import Module

T = TypeVar("T")
_RW_USER_FUNCTIONS = 3
"""CKS_RW_USER_FUNCTIONS: a read-write session of the logged-in user."""


def serial_of(token: pkcs11.Token) -> str:
    """Return the serial number, without the blanks that fill its field."""
    return token.serial.decode("utf-8", "replace").rstrip(" \0")


class Session:
    """One open session and its buffers, held by one call at a time."""

    __slots__ = ("binding", "handle", "scratch", "scratches")

    def __init__(self, binding: pkcs11.Session) -> None:
        self.binding = binding
        self.handle: int = binding.handle  # type: ignore[attr-defined]  # the binding's stubs omit it
        self.scratches = Scratches()
        self.scratch = self.scratches[GIVEN_12]

    def close(self) -> None:
        """Close the session. No error if the token has closed it already."""
        with suppress(PKCS11Error):
            self.binding.close()


class SessionPool:
    """Sessions of a logged-in token. `run` may be called from any thread; each call has a session of its own."""

    def __init__(self, module: Module, token: pkcs11.Token, pin: bytes) -> None:
        self.module = module
        self.raw: RawModule = module.raw
        self.epoch = module.epoch
        self.slot: int = token.slot.slot_id
        self.info = TokenInfo(
            label=token.label,
            serial=serial_of(token),
            manufacturer=token.manufacturer_id,
            model=token.model,
            max_sessions=self.raw.max_sessions(self.slot),
        )
        self.retired = False
        self._token = token
        # Used directly where no thread waits or is notified: the condition's methods are Python and cost four calls.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._free: list[Session] = []
        self._lent = 0
        module.enlist(self)
        try:
            self.keeper = self.open_session()
            module.login(self.keeper.handle, self.slot, pin)
        except BaseException:
            # The module may be restarted for others, although a traceback still holds this object.
            self.retired = True
            raise

    def open_session(self) -> Session:
        """Open a read-write session outside the pool; the caller closes it."""
        try:
            return Session(self._token.open(rw=True))
        except PKCS11Error as error:
            raise of_binding(error) from error

    # --- lending ------------------------------------------------------------------------------------

    def run(self, work: Callable[[Session], T]) -> T:
        """Call `work` with a session that no other call uses."""
        session = self.acquire()
        try:
            result = work(session)
        except BaseException as error:
            self.release_after(session, error)
            raise
        self.release(session)
        return result

    def acquire(self) -> Session:
        """Lend a session; the caller returns it by `release` or `release_after`. `run` does both, at a higher cost."""
        with self._lock:
            if self.retired:
                raise TokenUnavailable("the login has ended")
            self._lent += 1
            if self._free:
                return self._free.pop()
        try:
            return self.open_session()
        except BaseException as error:
            self._returned()
            if isinstance(error, CkrError) and error.rv == Ckr.SESSION_COUNT:
                raise TokenBusy("the token has no more sessions") from error
            raise

    def release(self, session: Session) -> None:
        """Return a session that the next call may use."""
        with self._lock:
            self._free.append(session)
            self._lent -= 1
            if self.retired:
                self._idle.notify_all()

    def release_after(self, session: Session, error: BaseException) -> None:
        """Return a session after a failed call: kept only if the error is about invalid data, else closed."""
        if isinstance(error, CkrError) and error.error_class is ErrorClass.DATA:
            self.release(session)
            return
        session.close()
        self._returned()

    def _returned(self) -> None:
        with self._idle:
            self._lent -= 1
            self._idle.notify_all()

    def discard_free_sessions(self) -> None:
        """Close all sessions that are not in use. Called when one was found dead: the others may be dead too."""
        with self._idle:
            dropped, self._free = self._free, []
        for session in dropped:
            session.close()

    @property
    def sessions(self) -> tuple[int, int]:
        """Number of sessions in use, and of free sessions."""
        return self._lent, len(self._free)

    # --- end ----------------------------------------------------------------------------------------

    def discard(self) -> None:
        """Lend no more sessions. Running calls continue."""
        with self._idle:
            self.retired = True

    def drained(self, *, timeout: float) -> bool:
        """Wait at most `timeout` seconds for running calls. True if all have returned."""
        with self._idle:
            return self._idle.wait_for(lambda: self._lent == 0, timeout)

    def close(self) -> None:
        """Close every session, the keeper last, which logs the process out.

        "If this function … closes the last session between the application and the token, the login state of the token
        for the application returns to public sessions" (PKCS#11 v2.40, C_CloseSession).
        """
        self.discard()
        self.discard_free_sessions()
        self.keeper.close()

    # --- proof --------------------------------------------------------------------------------------

    def verify_identity(self) -> None:
        """Prove that the same token is in the slot. Raises `CkrError`."""
        if self.raw.token_identity(self.slot) != (self.info.label, self.info.serial):
            raise CkrError(Ckr.TOKEN_NOT_RECOGNIZED, "another token is in the slot")

    def verify_login(self, session: Session) -> None:
        """Prove that the session is logged in. Raises `CkrError`."""
        if self.raw.session_state(session.handle) != _RW_USER_FUNCTIONS:
            raise CkrError(Ckr.USER_NOT_LOGGED_IN, "C_GetSessionInfo")
