"""Circuit breaker for the token: the current login, classification of errors, and reconnection.

A failed call is classified as invalid data, a missing object or a missing token. Reading the sentinel decides between
the last two, since SoftHSM answers "no such object" in both cases. While the token is away, every call is refused at
once. Reconnection is automatic: one attempt at a time, with growing pauses.
"""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from kmsd.adapters.pkcs11 import login as logins
from kmsd.adapters.pkcs11.deadline_pool import DeadlineThreadPool
from kmsd.adapters.pkcs11.handle_cache import NotFound
from kmsd.adapters.pkcs11.key_handles import id_of
from kmsd.adapters.pkcs11.object_locks import ObjectLocks
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass, name_of, port_error
from kmsd.ports import NoSuchObject, NotAuthentic, PinRefused, TokenError, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.module import Module
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.material import KeyReference

log = structlog.get_logger(__name__)
T = TypeVar("T")


class TokenLink:
    """Holder of the current login. `require`, `perform` and `verify_token` may be called from any thread."""

    def __init__(self, module: Module, settings: TokenSettings, clock: Callable[[], float]) -> None:
        self._module = module
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        # Its own thread, so that hanging calls do not block reconnection. If this thread hangs, no other start is
        # attempted: C_Finalize during a running C_Login is not defined.
        self._starter = DeadlineThreadPool("kmsd-token-start", threads=1, queue_limit=4, abandoned_limit=1)
        self.login: Login | None = None
        """The current login. It may have ended: `require` finds out."""
        self._reason: TokenUnavailable = TokenUnavailable("the token is not open yet")
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False
        self.locks = ObjectLocks()
        self.reconnects = 0

    async def open(self) -> None:
        """Log in for the first time. Raises `TokenUnavailable`, `PinRefused`."""
        self.login = await self._log_in(None, tries=logins.START_TRIES)

    async def _log_in(self, void: int | None, *, tries: int) -> Login:
        begin = partial(logins.start, self._module, self._settings, self._clock, void, tries=tries)
        return await self._starter.run(begin, deadline=2 * self._settings.start_deadline)

    # --- the current login --------------------------------------------------------------------------

    def require(self) -> Login:
        """Return the current login. Raises `TokenUnavailable` at once while there is none."""
        login = self.login
        if login is None:
            raise type(self._reason)(str(self._reason))
        if login.connection.retired:
            # Another user of the module in this process restarted it.
            self.open_circuit(login, "the module was restarted")
            raise TokenUnavailable("the login has ended")
        return login

    def open_circuit(self, login: Login, reason: str) -> None:
        """End the login: refuse calls from now on, and start to reconnect."""
        if self.login is not login or self._closed:
            return
        self.login = None
        self._reason = TokenUnavailable(f"the token is away: {reason}")
        login.connection.discard()
        log.error("token_away", reason=reason, epoch=login.number)
        self._loop.call_soon_threadsafe(self._start_reconnecting, login)

    # --- classification of errors -------------------------------------------------------------------

    def perform(self, key: KeyReference | None, call: Callable[[Login], T], *, opening: bool = False) -> T:
        """Run `call` with the current login, and retry once if its error allows. Raises the port's errors only.

        An object cannot be destroyed meanwhile. Unwrapped keys stay alive while the call holds them.
        """
        locked = key if isinstance(key, bytes) else None
        self.locks.acquire(locked, self._settings.deadline)
        try:
            return self._perform(key, call, opening=opening)
        finally:
            self.locks.release(locked)

    def _perform(self, key: KeyReference | None, call: Callable[[Login], T], *, opening: bool) -> T:
        login = self.require()
        try:
            return call(login)
        except CkrError as error:
            if not self.classify_error(login, key, error, opening=opening):
                raise port_error(error) from error
        login = self.require()
        try:
            return call(login)
        except CkrError as error:
            self.classify_error(login, key, error, opening=opening)
            # An object that is found but may not be used (KEY_FUNCTION_NOT_PERMITTED) is broken, not missing.
            if error.rv in (Ckr.KEY_HANDLE_INVALID, Ckr.OBJECT_HANDLE_INVALID) and isinstance(key, bytes):
                raise NoSuchObject(f"the token refuses the object {key.hex()}: {error}") from error
            raise port_error(error) from error

    def classify_error(self, login: Login, key: KeyReference | None, error: CkrError, *, opening: bool) -> bool:
        """True if the call may be retried once. False leaves the error to the caller.

        Raises the port's error where the cause is certain. The sentinel is read after each failure, since an earlier
        proof says nothing about now: one call that reads one attribute.
        """
        error_class = error.error_class
        if error_class is ErrorClass.DATA:
            # Only C_Decrypt judges the ciphertext. A client that gets this error for a good one may delete it.
            if opening and error.function == "C_Decrypt":
                raise NotAuthentic(str(error)) from error
            return False
        if error_class is ErrorClass.PIN:
            raise PinRefused(str(error)) from error
        if error_class is ErrorClass.SESSION:
            self._renew(login)
            return True
        self.verify_token(login)
        if isinstance(error, NotFound):
            raise NoSuchObject(str(error)) from error
        if error_class is ErrorClass.HANDLE and key is not None:
            login.invalidate(id_of(key))
            return True
        if error_class is ErrorClass.SUSPECT and opening and error.function == "C_Decrypt":
            raise NotAuthentic(f"{error}, and the token is well") from error
        return False

    def _renew(self, login: Login) -> None:
        try:
            login.renew_sessions()
        except CkrError as error:
            self.open_circuit(login, str(error))
            raise TokenUnavailable(f"no session can be opened: {error}") from error

    def verify_token(self, login: Login) -> None:
        """Prove that the token is present and logged in; else end the login and raise `TokenUnavailable`."""
        try:
            try:
                login.connection.run(login.verify)
            except CkrError as error:
                if error.error_class is not ErrorClass.SESSION:
                    raise
                self._renew(login)
                login.connection.run(login.verify)
        except CkrError as error:
            self.open_circuit(login, f"the sentinel fails with {name_of(error.rv)}")
            raise TokenUnavailable(f"the token is away: {error}") from error

    # --- reconnection -------------------------------------------------------------------------------

    def _start_reconnecting(self, ended: Login) -> None:
        if not self._closed and (self._reconnecting is None or self._reconnecting.done()):
            self._reconnecting = self._loop.create_task(self._reconnect(ended), name="kmsd-token-reconnect")

    async def _reconnect(self, ended: Login) -> None:
        pause, void = self._settings.reconnect_first, ended.number
        while True:
            try:
                login = await self._log_in(void, tries=1)
            except PinRefused as error:
                # The operator must resolve a refusal: offering the PIN again may lock the token.
                self._reason = error
                log.critical("token_pin_refused")
                return
            except Exception as error:
                if not isinstance(error, TokenError):
                    # A bug in kmsd must not end the reconnection.
                    log.exception("token_reconnect_failed")
                log.warning("token_unavailable", reason=str(error), next_attempt_in=pause)
                await asyncio.sleep(pause)
                pause, void = min(2 * pause, self._settings.reconnect_longest), self._module.epoch
            else:
                login.sealing.requests = ended.sealing.requests
                self.login = login
                self.reconnects += 1
                log.info("token_reconnected", epoch=login.number)
                # The old login and its errors form reference cycles holding large buffers. Collect now: the next
                # automatic collection may be hours away.
                del ended
                gc.collect()
                return

    async def close(self, *, finished: bool) -> None:
        """End the login and release the module. `finished` is True if no call is inside the module."""
        if self._closed:
            return
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        login, self.login = self.login, None
        self._reason = TokenUnavailable("the token is closed")
        try:
            finish = partial(self._finish, login, finished)
            await self._starter.run(finish, deadline=self._settings.start_deadline)
        except TokenUnavailable as error:
            # A call hangs inside the module, and C_Finalize during it is not defined. Only the end of the process
            # releases the token.
            log.error("token_not_released", reason=str(error))  # noqa: TRY400 (the reason says it all)
        await self._starter.close(within=self._settings.deadline)

    def _finish(self, login: Login | None, finished: bool) -> None:  # noqa: FBT001 (its own)
        drained = finished and (login is None or login.connection.drained(timeout=self._settings.deadline))
        try:
            if login is not None and drained and not login.connection.retired:
                login.connection.discard()
                login.close()
        except CkrError as error:
            # C_Finalize follows and closes the sessions that could not be closed one by one.
            log.warning("token_sessions_left", reason=str(error))
        finally:
            self._module.release(finalize=drained)
