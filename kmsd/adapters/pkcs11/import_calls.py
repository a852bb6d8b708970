"""The part of the Token port that brings key material in: calls, and what their errors mean."""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.pkcs11.import_self_tests import ProbedCapabilities, probe_imports
from kmsd.adapters.pkcs11.key_import import ImportSession, import_session
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
"""What was found lacking may have been a passing trouble of the token: after this time it is tried anew."""


class Imports(msgspec.Struct):
    """Imports into one token. All methods may be called concurrently."""

    settings: TokenSettings
    calls: CallDispatcher
    link: TokenLink
    clock: Callable[[], float]
    _skills: ProbedCapabilities | None = None
    _probed_at: float = 0.0
    _probing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    async def capabilities(self) -> ProbedCapabilities:
        """What the token is able to, probed by the first who asks. Raises `TokenError`."""
        known = self._skills
        if known is not None and (known.complete or self.clock() - self._probed_at < RECHECK_SECONDS):
            return known
        async with self._probing:
            if self._skills is known or self._skills is None:
                deadline = self.settings.start_deadline
                found = await self.calls.on_thread("probe_imports", None, self._probe, deadline=deadline)
                self._skills, self._probed_at = found if known is None else known.and_of(found), self.clock()
            return self._skills

    def _probe(self, login: Login) -> ProbedCapabilities:
        skills = probe_imports(login)
        # A token that went away lacks nothing.
        self.link.verify_token(login)
        return skills

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        """As `kmsd.ports.Token`."""

        def make(login: Login) -> bytes:
            public = login.connection.run(lambda session: login.objects.create_wrapping_pair(session, object_id, bits))
            sync_folder(self.settings.token_dir_sync)
            return public

        return await self.calls.on_thread("generate_wrapping_key", object_id, make)

    async def transport_key(self) -> bytes:
        """As `kmsd.ports.Token`."""
        if TRANSPORT not in (await self.capabilities()).imports:
            raise MechanismMissing(f"{TRANSPORT.value}, by which it would receive what the import token unwraps")
        return await self.calls.on_thread("transport_key", None, lambda epoch: epoch.transport_key().public_key)

    async def unwrap_key(
        self, wrapped: Wrapped, mac_message: bytes, expected: bytes | None, into: tuple[bytes, Algorithm] | None
    ) -> bytes:
        """As `kmsd.ports.Token`."""
        skills = await self.capabilities()
        if wrapped.algorithm not in skills.imports:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")

        def unwrap(login: Login) -> bytes:
            def work(_: object) -> bytes:
                with import_session(login.connection, skills.padded_wrap) as guest:
                    return self._unwrapped(login, guest, wrapped, mac_message, expected, into)

            # Lent beside the visit's own session, so that the module is not finalised meanwhile.
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
            # Only a token that is well can say that the blob is bad.
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
        """Handle of the private key that opens it."""
        if wrapped.wrapping_key is not None:
            return login.objects.entry(session.session, wrapped.wrapping_key).handle
        transport = login.transport_key()
        if not compare_digest(transport.public_key, wrapped.transport_key):
            raise TokenUnavailable("the login for which the material was wrapped has ended")
        return transport.handle

    async def rewrap_for(self, wrapped: Wrapped, transport_key: bytes) -> Wrapped:
        """As `kmsd.ports.Token`."""
        skills = await self.capabilities()
        if wrapped.algorithm not in skills.passes_on or wrapped.wrapping_key is None:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")
        wrapping_key = wrapped.wrapping_key

        def rewrap(login: Login) -> Wrapped:
            def work(_: object) -> Wrapped:
                with import_session(login.connection, skills.padded_wrap) as guest:
                    key = login.objects.entry(guest.session, wrapping_key).handle
                    blob, trouble = guest.rewrap_for(key, wrapped.algorithm, wrapped.blob, transport_key)
                if trouble is not None:
                    self.link.verify_token(login)
                return Wrapped(blob, TRANSPORT, None, transport_key, trouble)

            return login.connection.run(work)

        return await self.calls.on_thread("pass_on", wrapping_key, rewrap)
