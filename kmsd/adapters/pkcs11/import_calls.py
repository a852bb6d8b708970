"""Import methods of the Token port, and the classification of their errors."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from hmac import compare_digest
from typing import TYPE_CHECKING, TypeVar

import msgspec

from kmsd.adapters.pkcs11 import imported_keys
from kmsd.adapters.pkcs11.import_self_tests import ProbedCapabilities, probe_imports
from kmsd.adapters.pkcs11.imported_key_self_tests import probe_specs
from kmsd.adapters.pkcs11.key_import import ImportSession, import_session
from kmsd.adapters.pkcs11.key_pairs import wrapping_pair
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.templates import IMPORTED
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP, TRANSPORT, WrappedValue
from kmsd.domain.key_import import TRANSPORT_OF_KEYS
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import Algorithm
from kmsd.ports import (
    MaterialMismatch,
    MechanismMissing,
    TokenUnavailable,
    UnsuitableMaterial,
    UnwrapFailed,
    Wrapped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.key_import import KeyKind
    from kmsd.domain.material import KeyReference
    from kmsd.ports import ImportedKey

    StoreMaterial = Callable[[Login, ImportSession, WrappedValue, bytes], None]
    """Stores material that was verified; the last argument is the public key of a pair."""

T = TypeVar("T")

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

    def as_object(self, object_id: bytes, kind: KeyKind | Algorithm) -> StoreMaterial:
        """Return what stores material as an object in the token, for a symmetric algorithm or as another kind."""

        def store(login: Login, session: ImportSession, material: WrappedValue, public_key: bytes) -> None:
            if isinstance(kind, Algorithm):
                login.objects.unwrap(session.session, object_id, IMPORTED[kind], material)
            else:
                imported_keys.store(session, login.objects, material, kind, object_id=object_id, public_key=public_key)
            sync_folder(self.settings.token_dir_sync)

        return store

    async def capabilities(self) -> ProbedCapabilities:
        """Return what the token can import; the first call runs the self-tests. Raises `TokenError`."""
        known = self._proven
        if known is not None and (known.complete or self.clock() - self._probed_at < RECHECK_SECONDS):
            return known
        async with self._probing:
            if self._proven is known or self._proven is None:
                deadline = self.settings.start_deadline
                found = await self.calls.on_thread("probe_imports", None, self._probe, deadline=deadline)
                self._proven, self._probed_at = found, self.clock()
            return self._proven

    def _probe(self, login: Login) -> ProbedCapabilities:
        found = probe_imports(login)
        proven = probe_specs(login, found if self._proven is None else self._proven.and_of(found))
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
        self, wrapped: Wrapped, mac_message: bytes, expected: bytes | None, store: StoreMaterial | None
    ) -> bytes:
        proven = await self.capabilities()
        if wrapped.algorithm not in proven.imports:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")

        def work(login: Login, session: ImportSession) -> bytes:
            return self._unwrapped(login, session, wrapped, mac_message, expected, store)

        return await self._in_session("unwrap_key", wrapped.wrapping_key, proven, work)

    def _unwrapped(  # noqa: PLR0917 (its own)
        self,
        login: Login,
        session: ImportSession,
        wrapped: Wrapped,
        mac_message: bytes,
        expected: bytes | None,
        store: StoreMaterial | None,
    ) -> bytes:
        with self._key(login, session, wrapped) as key:
            proven = session.verify(key, wrapped.algorithm, wrapped.blob, mac_message)
        failure = wrapped.failure or proven.failure
        if failure is not None:
            # The blob is invalid only if the token is present and working.
            self.link.verify_token(login)
            raise failure
        if expected is not None and not compare_digest(expected, proven.fingerprint):
            raise MaterialMismatch("other key material was imported before")
        if store is not None:
            store(login, session, WrappedValue(KEY_WRAP, proven.kek, proven.wrapped), b"")
        return proven.fingerprint

    async def import_key(
        self, wrapped: Wrapped, kind: KeyKind, mark: bytes, expected: bytes | None, store: StoreMaterial | None
    ) -> ImportedKey:
        proven = await self.capabilities()
        if wrapped.algorithm not in proven.imports or kind[0] not in proven.specs:
            raise MechanismMissing(f"what the import of {kind[0]} by {wrapped.algorithm} needs")

        def work(login: Login, session: ImportSession) -> ImportedKey:
            with self._key(login, session, wrapped) as key:
                material = session.wrapped_value(key, wrapped.algorithm, wrapped.blob)
                found = self._of_the_blob(login, lambda: imported_keys.prove(session, material, kind[0], mark))
                if expected is not None and not compare_digest(expected, found.fingerprint):
                    raise MaterialMismatch("other key material was imported before")
                if store is not None:
                    store(login, session, material, found.public_key)
                return found

        return await self._in_session("import_key", wrapped.wrapping_key, proven, work)

    def _of_the_blob(self, login: Login, prove: Callable[[], T]) -> T:
        """Return the result of `prove`. If it finds the blob invalid, verify first that the token works."""
        try:
            return prove()
        except (UnwrapFailed, UnsuitableMaterial):
            self.link.verify_token(login)
            raise

    async def _in_session(
        self,
        name: str,
        wrapping_key: KeyReference | None,
        proven: ProbedCapabilities,
        work: Callable[[Login, ImportSession], T],
    ) -> T:
        """Run `work` on a thread, with an import session."""

        def call(login: Login) -> T:
            def use(_: object) -> T:
                with import_session(login.connection, proven.padded_wrap) as session:
                    return work(login, session)

            # Borrow a pool session in addition to the import session, so that the module is not finalised meanwhile.
            return login.connection.run(use)

        return await self.calls.on_thread(name, wrapping_key, call)

    @staticmethod
    @contextmanager
    def _key(login: Login, session: ImportSession, wrapped: Wrapped) -> Iterator[int]:
        """Yield the handle of the private key that unwraps the blob."""
        if wrapped.wrapping_key is not None:
            with login.keys.held(session.session, wrapped.wrapping_key) as entry:
                yield entry.handle
            return
        transport = login.transport_key()
        if not compare_digest(transport.public_key, wrapped.transport_key):
            raise TokenUnavailable("the login for which the material was wrapped has ended")
        yield transport.handle

    async def rewrap_for(self, wrapped: Wrapped, transport_key: bytes, spec: KeySpec) -> Wrapped:
        proven = await self.capabilities()
        is_symmetric = spec is KeySpec.SYMMETRIC_DEFAULT
        passes_on = wrapped.algorithm in proven.passes_on and (is_symmetric or spec in proven.passes_on_specs)
        if not passes_on or wrapped.wrapping_key is None:
            raise MechanismMissing(f"what {wrapped.algorithm.value} needs")

        def work(login: Login, session: ImportSession) -> Wrapped:
            with self._key(login, session, wrapped) as key:
                if is_symmetric:
                    blob, failure = session.rewrap_for(key, wrapped.algorithm, wrapped.blob, transport_key)
                    if failure is not None:
                        self.link.verify_token(login)
                    return Wrapped(blob, TRANSPORT, None, transport_key, failure)
                material = session.wrapped_value(key, wrapped.algorithm, wrapped.blob)
                blob = self._of_the_blob(login, lambda: imported_keys.rewrap(session, material, spec, transport_key))
                return Wrapped(blob, TRANSPORT_OF_KEYS, None, transport_key)

        return await self._in_session("pass_on", wrapped.wrapping_key, proven, work)
