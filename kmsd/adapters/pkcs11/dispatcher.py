"""Dispatch calls of the port to the event loop or to a thread, count them, and classify their errors."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import structlog

from kmsd.adapters.pkcs11.deadline_pool import DeadlineThreadPool
from kmsd.adapters.pkcs11.inline_policy import GENERATION, InlinePolicy, Kind, Pace, first
from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass
from kmsd.domain.material import Algorithm
from kmsd.ports.counters import CallCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.material import KeyReference

log = structlog.get_logger(__name__)
T = TypeVar("T")
_INLINE_LIMIT = 16_384
"""Bytes above which a call runs on a thread, however fast the token handles small ones."""
_OPENING: frozenset[Kind] = frozenset({"open", "decrypt_rsa"})
"""Calls in which the token judges a ciphertext."""


class CallDispatcher:
    """Dispatcher of calls over one circuit breaker, used from one event loop."""

    def __init__(self, settings: TokenSettings, link: TokenLink) -> None:
        self._settings = settings
        self._link = link
        self.workers = DeadlineThreadPool(
            "kmsd-token",
            threads=settings.sessions,
            queue_limit=settings.queue_limit,
            abandoned_limit=settings.abandoned_limit,
            low_priority=True,
        )
        self.inline_policy = InlinePolicy(settings.inline, settings.inline_below)
        self.counters: dict[str, CallCounter] = {}

    async def data(
        self,
        kind: Kind,
        key: KeyReference | None,
        call: Callable[[Login, Session], bytes],
        *,
        size: int,
        algorithm: Algorithm | None = None,
        prefix: bytes | None = None,
        pace: Pace | None = None,
    ) -> bytes:
        """Make one call, inline or on a thread. `pace` is the algorithm, if the time of this kind depends on it."""
        pace = pace or kind
        counter = self.counters.get(kind) or self._counter(kind)
        counter.calls += 1
        start = perf_counter()
        is_xaes = algorithm is Algorithm.XAES_256_GCM
        policy, link, login = self.inline_policy, self._link, self._link.login
        try:
            if login is None or login.connection.retired:
                login = link.require()
            if not (key is None or (login.keys.is_known(key) if not is_xaes else login.derived.has(key, prefix))):
                return await self._first_use(login, kind, key, call, size=size, pace=first(pace))
            # Derived and unwrapped keys stay alive while a call holds them. Only objects need the lock.
            held = key if not is_xaes and isinstance(key, bytes) else None
            if not (size <= _INLINE_LIMIT and pace in policy.inline and (held is None or link.locks.try_acquire(held))):
                return await self._in_thread(kind, key, call)
            try:
                result = self._inline(login, held, call)
            except CkrError as error:
                return await self._handle_error(login, kind, key, call, error)
            seconds = perf_counter() - start
            if seconds >= policy.slow_seconds or pace in policy.watched:
                policy.record(pace, seconds)
        except BaseException:
            counter.errors += 1
            raise
        finally:
            counter.observe(perf_counter() - start)
        return result

    async def _first_use(
        self,
        login: Login,
        kind: Kind,
        key: KeyReference,
        call: Callable[[Login, Session], bytes],
        *,
        size: int,
        pace: Pace,
    ) -> bytes:
        """Make a call whose key must be found or derived first, inline if that is fast as well."""
        held = key if isinstance(key, bytes) else None
        is_inline = size <= _INLINE_LIMIT and pace in self.inline_policy.inline and login.within_reach(key)
        if not is_inline or (held is not None and not self._link.locks.try_acquire(held)):
            return await self._in_thread(kind, key, call)
        try:
            return self._recorded(pace, login, held, call)
        except CkrError as error:
            return await self._handle_error(login, kind, key, call, error)

    def _recorded(self, pace: Pace, login: Login, held: bytes | None, call: Callable[[Login, Session], T]) -> T:
        """Make a call on the event loop and record its time. `data` has the same lines: a call less."""
        policy, start = self.inline_policy, perf_counter()
        result = self._inline(login, held, call)
        seconds = perf_counter() - start
        if seconds >= policy.slow_seconds or pace in policy.watched:
            policy.record(pace, seconds)
        return result

    def _inline(self, login: Login, held: bytes | None, call: Callable[[Login, Session], T]) -> T:
        """Make a call on the event loop with a session of its own, then release the object's lock."""
        connection = login.connection
        try:
            session = connection.acquire()
            try:
                result = call(login, session)
            except BaseException as error:
                connection.release_after(session, error)
                raise
            connection.release(session)
        finally:
            if held is not None:
                self._link.locks.release(held)
        return result

    async def _handle_error(
        self,
        login: Login,
        kind: Kind,
        key: KeyReference | None,
        call: Callable[[Login, Session], bytes],
        error: CkrError,
    ) -> bytes:
        """Handle a failed inline call: refuse invalid data here, continue with anything else on a thread."""
        opening = kind in _OPENING
        if opening and error.error_class in (ErrorClass.DATA, ErrorClass.SUSPECT):
            # Reading the sentinel is as fast as this call was: a flood of invalid ciphertexts occupies no thread.
            self._link.classify_error(login, key, error, opening=True)

        def retry_call() -> bytes:
            retry = self._link.classify_error(login, key, error, opening=opening)
            log.info("token_call_retried", kind=kind, reason=str(error), retry=retry)
            return self._link.perform(key, lambda e: e.connection.run(partial(call, e)), opening=opening)

        return await self.workers.run(retry_call, deadline=self._settings.deadline)

    async def _in_thread(self, kind: Kind, key: KeyReference | None, call: Callable[[Login, Session], bytes]) -> bytes:
        def run(login: Login) -> bytes:
            return login.connection.run(partial(call, login))

        work = partial(self._link.perform, key, run, opening=kind in _OPENING)
        return await self.workers.run(work, deadline=self._settings.deadline)

    async def generation(self, domain_key: DomainKey, call: Callable[[Login, Session], T]) -> T:
        """Make a call that generates a secret under a domain key, and leaves nothing in the token if it fails."""
        login = self._link.require()
        if GENERATION in self.inline_policy.inline and login.wrapped.is_open(
            domain_key.domain_key_id, domain_key.binding_key
        ):
            start = perf_counter()
            try:
                result = self._recorded(GENERATION, login, None, call)
            except CkrError as error:
                log.info("token_call_retried", kind=GENERATION, reason=str(error), retry=True)
            else:
                counter = self.counters.get(GENERATION) or self._counter(GENERATION)
                counter.calls += 1
                counter.observe(perf_counter() - start)
                return result

        def run(login: Login) -> T:
            return login.connection.run(partial(call, login))

        return await self.on_thread(GENERATION, domain_key.domain_key_id, run)

    async def on_thread(
        self, name: str, key: KeyReference | None, call: Callable[[Login], T], *, deadline: float | None = None
    ) -> T:
        """Run a call that never runs on the event loop."""
        counter = self.counters.get(name) or self._counter(name)
        counter.calls += 1
        start = perf_counter()
        try:
            self._link.require()
            work = partial(self._link.perform, key, call)
            return await self.workers.run(work, deadline=deadline or self._settings.slow_deadline)
        except BaseException:
            counter.errors += 1
            raise
        finally:
            counter.observe(perf_counter() - start)

    def _counter(self, name: str) -> CallCounter:
        counter = self.counters[name] = CallCounter()
        return counter
