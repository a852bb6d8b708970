"""Import methods of the Token port, and the classification of their errors."""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.pkcs11.import_self_tests import ProbedCapabilities, probe_imports
from kmsd.adapters.pkcs11.key_import import ImportSession, import_session
from kmsd.adapters.pkcs11.key_pairs import wrapping_pair
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.wrap_mechanisms import TRANSPORT
from kmsd.ports import MaterialMismatch, MechanismMissing, TokenUnavailable, Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.material import Algorithm


RECHECK_SECONDS = 60.0
"""Seconds after which missing algorithms are tested again: the token may have had a temporary fault."""


class Imports(msgspec.Struct):
    """Import methods of one token, specified in `kmsd.ports.Token`. All may be called concurrently."""

    settings: TokenSettings
    calls: CallDispatcher
    link: TokenLink
    clock: Callable[[], float]
    _proven: ProbedCapabilities | None = None
    _probed_at: float = 0.0
    _probing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    async def capabilities(self) -> ProbedCapabilities:
        """Return what the token can import; the first call runs the self-tests. Raises `TokenError`."""
        known = self._proven
        if known is not None and (known.complete or self.clock() - self._probed_at < RECHECK_SECONDS):
            return known
        async with self._probing:
            if self._proven is known or self._proven is None:
                deadline = self.settings.start_deadline
                found = await self.calls.on_thread("probe_imports", None, self._probe, deadline=deadline)
                self._proven, self._probed_at = found if known is None else known.and_of(found), self.clock()
            return self._proven

    def _probe(self, login: Login) -> ProbedCapabilities:
        proven = probe_imports(login)
        # A token that went away fails every test without lacking anything.
        self.link.verify_token(login)
        return proven

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        def make(login: Login) -> bytes:
            pair = wrapping_pair(bits)
            public = login.connection.run(lambda session: login.objects.create_pair(session, object_id, pair))
            sync_folder(self.settings.token_dir_sync)
            return public

        return await self.calls.on_thread("generate_wrapping_key", object_id, make)

    async def transport_key(self) -> bytes:
        if TRANSPORT not in (await self.capabilities()).imports:
            raise MechanismMissing(f"{TRANSPORT.value}, under which it would receive what the import token unwraps")
        return await self.calls.on_thread("transport_key", None, lambda login: login.transport_key().public_key)

    async def unwrap_key(
        self, wrapped: Wrapped, mac_message: bytes, expected: bytes | None, into: tuple[bytes, Algorithm] | None
    ) -> bytes:
        proven = await self.capabilities()
        if wrapped.algorithm not in proven.imports:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")

        def unwrap(login: Login) -> bytes:
            def work(_: object) -> bytes:
                with import_session(login.connection, proven.padded_wrap) as session:
                    return self._unwrapped(login, session, wrapped, mac_message, expected, into)

            # Borrow a pool session in addition to the import session, so that the module is not finalised meanwhile.
            return login.connection.run(work)

        return await self.calls.on_thread("unwrap_key", wrapped.wrapping_key, unwrap)

    def _unwrapped(  # noqa: PLR0917 (its own)
        self,
        login: Login,
        session: ImportSession,
        wrapped: Wrapped,
        mac_message: bytes,
        expected: bytes | None,
        into: tuple[bytes, Algorithm] | None,
    ) -> bytes:
        proven = session.verify(self._key(login, session, wrapped), wrapped.algorithm, wrapped.blob, mac_message)
        failure = wrapped.failure or proven.failure
        if failure is not None:
            # The blob is invalid only if the token is present and working.
            self.link.verify_token(login)
            raise failure
        if expected is not None and not compare_digest(expected, proven.fingerprint):
            raise MaterialMismatch("other key material was imported before")
        if into is not None:
            object_id, algorithm = into
            login.objects.unwrap(session.session, object_id, algorithm, proven.kek, proven.wrapped)
            sync_folder(self.settings.token_dir_sync)
        return proven.fingerprint

    @staticmethod
    def _key(login: Login, session: ImportSession, wrapped: Wrapped) -> int:
        """Return the handle of the private key that unwraps the blob."""
        if wrapped.wrapping_key is not None:
            return login.objects.entry(session.session, wrapped.wrapping_key).handle
        transport = login.transport_key()
        if not compare_digest(transport.public_key, wrapped.transport_key):
            raise TokenUnavailable("the login for which the material was wrapped has ended")
        return transport.handle

    async def rewrap_for(self, wrapped: Wrapped, transport_key: bytes) -> Wrapped:
        proven = await self.capabilities()
        if wrapped.algorithm not in proven.passes_on or wrapped.wrapping_key is None:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")
        wrapping_key = wrapped.wrapping_key

        def rewrap(login: Login) -> Wrapped:
            def work(_: object) -> Wrapped:
                with import_session(login.connection, proven.padded_wrap) as session:
                    key = login.objects.entry(session.session, wrapping_key).handle
                    blob, failure = session.rewrap_for(key, wrapped.algorithm, wrapped.blob, transport_key)
                if failure is not None:
                    self.link.verify_token(login)
                return Wrapped(blob, TRANSPORT, None, transport_key, failure)

            return login.connection.run(work)

        return await self.calls.on_thread("pass_on", wrapping_key, rewrap)
