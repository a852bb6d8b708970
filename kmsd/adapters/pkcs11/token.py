"""Token port on a PKCS#11 module.

The data path (random, encrypt, decrypt, sign, MAC) runs on the event loop while the token is fast, else on threads. A
call whose handle is missing, or that fails, continues on a thread. RSA, and creating, destroying and listing objects
always run on threads.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Self

import structlog

from kmsd.adapters.pkcs11.call_counters import snapshot
from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
from kmsd.adapters.pkcs11.cryptoki_types import attribute_name, flag, number
from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
from kmsd.adapters.pkcs11.import_calls import Imports
from kmsd.adapters.pkcs11.key_calls import KeyCalls
from kmsd.adapters.pkcs11.key_handles import id_of
from kmsd.adapters.pkcs11.module import Module
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.roles import INTEGER_ATTRIBUTES
from kmsd.adapters.pkcs11.self_tests import measure, probe
from kmsd.adapters.pkcs11.softhsm import leaks_objects
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.templates import OBJECT_ID_LENGTH
from kmsd.adapters.pkcs11.wrap_calls import WrapCalls
from kmsd.adapters.pkcs11.wrap_mechanisms import TRANSPORT
from kmsd.adapters.pkcs11.xaes import PREFIX_LENGTH, well_formed
from kmsd.domain.key_spec import KeySpec
from kmsd.domain.material import Algorithm
from kmsd.ports import ImportCapabilities, MechanismMissing, TokenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.key_import import KeyKind
    from kmsd.domain.key_spec import EncryptionAlgorithm, KeyUsage, MacAlgorithm, SigningAlgorithm
    from kmsd.domain.material import KeyReference
    from kmsd.ports import Capabilities, ImportedKey, KeyOffer, ObjectReport, TokenInfo, Wrapped
    from kmsd.ports.counters import TokenCounters

log = structlog.get_logger(__name__)
_RANDOM_LIMIT = 65_536


class Pkcs11Token:
    """Token behind a PKCS#11 module. Created by `open`, ended by `close`. Implements `kmsd.ports.Token`."""

    def __init__(self, settings: TokenSettings, module: Module, link: TokenLink, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._module = module
        self._link = link
        self._clock = clock
        self._calls = CallDispatcher(settings, link)
        self._last_login: Login
        self._capabilities: Capabilities
        self._imports: Imports
        self._keys: KeyCalls
        self.custody: WrapCalls
        self._operated_at = -settings.sentinel_operation_interval
        self._chores: set[asyncio.Task[object]] = set()
        self._count_message: Callable[[bytes], Awaitable[None]] | None = None

    @classmethod
    async def open(cls, settings: TokenSettings, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """Load the module, log in with the PIN (one attempt), list the objects, and probe the mechanisms.

        Raises `PinRefused` if the token refuses the PIN, else `TokenUnavailable`. `clock` measures the age of derived
        keys.
        """
        module = Module.acquire(settings.module, settings.init_reserved)
        link = TokenLink(module, settings, clock)
        try:
            await link.open()
            token = cls(settings, module, link, clock)
        except BaseException:
            await link.close(finished=True)
            raise
        try:
            await token._probe()
        except BaseException:
            await token.close()
            raise
        return token

    async def _probe(self) -> None:
        login = self._last_login = self._link.require()

        def learn(_: Login) -> Capabilities:
            capabilities = probe(login)
            login.connection.run(lambda session: measure(login, session, self._calls.inline_policy))
            return capabilities

        deadline = self._settings.start_deadline
        self._capabilities = await self._calls.on_thread("open_token", None, learn, deadline=deadline)
        self._imports = Imports(self._settings, self._calls, self._link, self._clock)
        self._keys = KeyCalls(
            self._settings, self._calls, self._link, has_ecdsa="CKM_ECDSA" in self._capabilities.mechanisms
        )
        self.custody = WrapCalls(
            self._settings, self._calls, self._link, self._keys, self._imports, self._capabilities.algorithms
        )
        self._chores.add(asyncio.get_running_loop().create_task(self._sweep_derived_keys(), name="kmsd-token-sweep"))
        log.info(
            "token_open", label=self.info.label, serial=self.info.serial, pace=self._calls.inline_policy.snapshot()
        )

    def count_messages_by(self, count: Callable[[bytes], Awaitable[None]]) -> None:
        """Register `count`, called with the object's id before each message of an algorithm that is counted."""
        self._count_message = count

    # --- the port: facts ----------------------------------------------------------------------------

    @property
    def info(self) -> TokenInfo:
        return self._last_login.connection.info

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def counters(self) -> TokenCounters:
        """Return a snapshot for metrics."""
        return snapshot(self._calls, self._link, self._module.raw.objects_made)

    @property
    def needs_new_process(self) -> bool:
        """True if the module leaks memory, and has made as many objects as the settings allow."""
        too_many = self._module.raw.objects_made >= self._settings.session_objects
        return too_many and leaks_objects(self.info.manufacturer)

    # --- the port: data path ------------------------------------------------------------------------

    async def import_capabilities(self) -> ImportCapabilities:
        """Return the wrapping algorithms that work for imports, probed at the first call."""
        proven = await self._imports.capabilities()
        return ImportCapabilities(
            proven.imports, proven.passes_on, TRANSPORT in proven.imports, proven.specs, proven.passes_on_specs
        )

    async def key_offers(self) -> Mapping[tuple[KeySpec, KeyUsage], KeyOffer]:
        """Return what works for each spec and usage, tested at the first call."""
        return (await self._keys.tested()).offers

    async def random(self, count: int) -> bytes:
        """Return `count` random bytes from the token's generator."""
        if not 1 <= count <= _RANDOM_LIMIT:
            raise ValueError(f"between 1 and {_RANDOM_LIMIT} random bytes, not {count}")

        def call(login: Login, session: Session) -> bytes:
            return login.connection.raw.random(session.handle, count)

        return await self._calls.data("random", None, call, size=count)

    async def encrypt(self, key: KeyReference, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt. Return nonce, ciphertext and tag, joined."""
        if algorithm not in self._capabilities.algorithms:
            raise _mechanism_missing(algorithm)
        if not aad:
            raise ValueError("associated data must not be empty")
        if algorithm is not Algorithm.XAES_256_GCM and self._count_message is not None:
            await self._count_message(id_of(key))

        def call(login: Login, session: Session) -> bytes:
            return login.sealing.seal(session, key, algorithm, plaintext, aad)

        return await self._calls.data("seal", key, call, size=len(plaintext), algorithm=algorithm)

    async def decrypt(self, key: KeyReference, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt what `encrypt` returned. Raises `NotAuthentic`."""
        self._require_opening(algorithm)
        well_formed(algorithm, sealed, aad)

        def call(login: Login, session: Session) -> bytes:
            return login.sealing.open(session, key, algorithm, sealed, aad)

        prefix = sealed[:PREFIX_LENGTH]
        return await self._calls.data("open", key, call, size=len(sealed), algorithm=algorithm, prefix=prefix)

    async def sign(self, key: KeyReference, algorithm: SigningAlgorithm, message: bytes, *, is_digest: bool) -> bytes:
        """Return the signature of a message, or of the digest of one."""
        return await self._keys.sign(key, algorithm, message, is_digest=is_digest)

    async def mac(self, key: KeyReference, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """Return the whole HMAC of a message."""
        return await self._keys.mac(key, algorithm, message)

    async def decrypt_rsa(self, key: KeyReference, algorithm: EncryptionAlgorithm, ciphertext: bytes) -> bytes:
        """Decrypt by RSAES-OAEP. Raises `NotAuthentic`."""
        return await self._keys.decrypt_rsa(key, algorithm, ciphertext)

    async def agree(self, key: KeyReference, peer_point: bytes) -> bytes:
        """Return the raw ECDH secret with a peer's uncompressed point."""
        return await self._keys.agree(key, peer_point)

    async def encapsulate(self, object_id: bytes) -> tuple[bytes, bytes]:
        """Return a fresh secret of 32 bytes, and its ML-KEM ciphertext."""
        return await self._keys.encapsulate(object_id)

    async def decapsulate(self, key: KeyReference, ciphertext: bytes) -> bytes:
        """Return the secret of an ML-KEM ciphertext."""
        return await self._keys.decapsulate(key, ciphertext)

    def _require_opening(self, algorithm: Algorithm) -> None:
        if algorithm not in self._capabilities.opens:
            raise MechanismMissing(f"what decryption by {algorithm.name} needs")

    # --- the port: objects --------------------------------------------------------------------------

    async def generate_key(self, object_id: bytes, algorithm: Algorithm) -> None:
        """Create an AES-256 object for encryption; durable and verified on return."""
        if algorithm not in self._capabilities.algorithms:
            raise _mechanism_missing(algorithm)
        _check_id(object_id)

        def make(login: Login) -> None:
            login.connection.run(lambda session: login.objects.create_encryption_key(session, object_id, algorithm))
            sync_folder(self._settings.token_dir_sync)

        await self._calls.on_thread("generate_key", object_id, make)

    async def generate_mac_key(self, object_id: bytes, spec: KeySpec) -> None:
        """Create a key of an HMAC spec; durable and verified on return."""
        _check_id(object_id)
        await self._keys.generate_mac_key(object_id, spec)

    async def generate_key_pair(self, object_id: bytes, spec: KeySpec, usage: KeyUsage) -> bytes:
        """Create a key pair, durable and verified on return. Return its DER SubjectPublicKeyInfo."""
        _check_id(object_id)
        return await self._keys.generate_key_pair(object_id, spec, usage)

    async def public_key(self, object_id: bytes) -> bytes:
        """Return the DER SubjectPublicKeyInfo of a pair."""
        return await self._keys.public_key(object_id)

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        """Create an RSA wrapping pair, durable and verified on return. Return its DER SubjectPublicKeyInfo."""
        _check_id(object_id)
        return await self._imports.generate_wrapping_key(object_id, bits)

    async def unwrap_key(
        self,
        wrapped: Wrapped,
        mac_message: bytes,
        *,
        expected: bytes | None = None,
        into: tuple[bytes, Algorithm] | None = None,
    ) -> bytes:
        """Unwrap key material, verify it, and store it as object `into` if given. Return its fingerprint."""
        if into is not None:
            _check_id(into[0])
            # Material that is imported again may be needed to decrypt only.
            self._require_opening(into[1])
        store = None if into is None else self._imports.as_object(*into)
        return await self._imports.unwrap_key(wrapped, mac_message, expected, store)

    async def import_key(
        self,
        wrapped: Wrapped,
        kind: KeyKind,
        mark: bytes,
        *,
        expected: bytes | None = None,
        into: bytes | None = None,
    ) -> ImportedKey:
        """Unwrap RSA, ECC or HMAC material, verify it, and store it as `into` if given."""
        if into is not None:
            _check_id(into)
        store = None if into is None else self._imports.as_object(into, kind)
        return await self._imports.import_key(wrapped, kind, mark, expected, store)

    async def transport_key(self) -> bytes:
        """Return the public key under which another token rewraps key material for this one."""
        return await self._imports.transport_key()

    async def rewrap_for(
        self, wrapped: Wrapped, transport_key: bytes, spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    ) -> Wrapped:
        """Unwrap key material, and wrap it under the transport key of another token."""
        return await self._imports.rewrap_for(wrapped, transport_key, spec)

    async def destroy(self, object_id: bytes) -> None:
        """Destroy all objects of this id; on return their absence is verified and durable. Refuses the sentinel."""
        _check_id(object_id)
        if object_id == self._settings.sentinel:
            raise TokenError("the sentinel is not destroyed while it is what proves the token's presence")

        def destroy(login: Login) -> None:
            with self._link.locks.destroying(object_id, self._settings.deadline):
                login.invalidate(object_id)
                login.destroy_retired()
                login.connection.run(lambda session: login.objects.destroy(session, object_id))
            # A token that is away also shows no objects: verify that it is present.
            self._link.verify_token(login)
            sync_folder(self._settings.token_dir_sync)

        await self._calls.on_thread("destroy", None, destroy)

    async def list_objects(self) -> Sequence[ObjectReport]:
        """Return all objects that carry the daemon's label, malformed ones included."""

        def look(login: Login) -> list[ObjectReport]:
            reports = login.connection.run(login.objects.report)
            self._link.verify_token(login)
            return reports

        return await self._calls.on_thread("list_objects", None, look)

    async def attributes(self, key: KeyReference) -> dict[str, bool | bytes | int]:
        """Return the readable attributes of the secret or private object, by `CKA_…`. Raises `NoSuchObject`."""

        def read(login: Login, session: Session) -> dict[int, bytes]:
            with login.keys.held(session, key) as found:
                return login.objects.read(session, found.handle)

        values = await self._calls.on_thread(
            "attributes", key, lambda login: login.connection.run(partial(read, login))
        )
        return {attribute_name(kind): _typed(values, kind) for kind in values}

    # --- the port: life -----------------------------------------------------------------------------

    def invalidate(self, object_id: bytes) -> None:
        """Forget every handle and derived key of this object now. A task then destroys its derived keys."""
        login = self._link.login
        if login is not None:
            login.invalidate(object_id)
            if login.retired_count:
                self._chore(self._destroy_retired(login))

    async def check(self) -> None:
        """Prove that the token is present and logged in: read the sentinel, and at intervals encrypt with it."""
        sentinel, now = self._settings.sentinel, self._clock()
        work = sentinel is not None and now - self._operated_at >= self._settings.sentinel_operation_interval

        def operate(login: Login) -> None:
            self._link.verify_token(login)
            if work and sentinel is not None:
                login.connection.run(lambda session: login.exercise(session, sentinel))

        await self._calls.on_thread("check", sentinel, operate, deadline=self._settings.deadline)
        if work:
            self._operated_at = now

    async def close(self) -> None:
        """Wait for running calls (at most `slow_deadline`), close all sessions and release the module."""
        for task in self._chores:
            task.cancel()
        finished = await self._calls.workers.close(within=self._settings.slow_deadline)
        await self._link.close(finished=finished)

    # --- chores -------------------------------------------------------------------------------------

    def _chore(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _destroy_retired(self, login: Login) -> None:
        try:
            await self._calls.workers.run(login.destroy_retired, deadline=self._settings.deadline)
        except (CkrError, TokenError) as error:
            # No call can use them any more; closing the session destroys them.
            log.warning("token_derived_keys_left", count=login.retired_count, reason=str(error))

    async def _sweep_derived_keys(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._settings.derived_key_age / 4))
            login = self._link.login
            if login is not None:
                login.sweep()
                if login.retired_count:
                    await self._destroy_retired(login)


def _check_id(object_id: bytes) -> None:
    if type(object_id) is not bytes or len(object_id) != OBJECT_ID_LENGTH:
        raise ValueError(f"an object id is {OBJECT_ID_LENGTH} bytes")


def _typed(values: dict[int, bytes], kind: int) -> bool | bytes | int:
    if kind in INTEGER_ATTRIBUTES:
        shown = number(values, kind)
        return values[kind] if shown is None else shown
    truth = flag(values, kind)
    return values[kind] if truth is None else truth


def _mechanism_missing(algorithm: Algorithm) -> MechanismMissing:
    return MechanismMissing(f"what encryption by {algorithm.name} needs")
