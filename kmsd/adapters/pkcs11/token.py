"""The Token port on a PKCS#11 module.

The data path (random, encrypt, decrypt, sign) runs on the event loop while the token is fast, else in threads; what it
finds missing or broken goes to a thread in any case. Making, destroying and listing objects always do.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self, TypeVar

import structlog
from msgspec.structs import replace
from pkcs11 import Attribute, Mechanism

from kmsd.adapters.pkcs11.aead import well_formed
from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
from kmsd.adapters.pkcs11.counters import TokenCounters
from kmsd.adapters.pkcs11.cryptoki_types import attribute_name, flag, number
from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
from kmsd.adapters.pkcs11.ecdsa import DIGEST_LENGTH, der_signature, spki_of_ec_point
from kmsd.adapters.pkcs11.import_calls import Imports
from kmsd.adapters.pkcs11.module import Module
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.self_tests import measure, probe
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.templates import INTEGER_ATTRIBUTES, OBJECT_ID_LENGTH
from kmsd.adapters.pkcs11.wrap_mechanisms import TRANSPORT
from kmsd.adapters.pkcs11.xaes import PREFIX_LENGTH
from kmsd.domain.material import Algorithm
from kmsd.ports import ImportCapabilities, MechanismMissing, TokenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.ports import Capabilities, ObjectReport, TokenInfo, Wrapped

log = structlog.get_logger(__name__)
T = TypeVar("T")
_RANDOM_LIMIT = 65_536
_ECDSA = int(Mechanism.ECDSA)


class Pkcs11Token:
    """A token behind a PKCS#11 module; `open` makes one, `close` ends it. Implements `kmsd.ports.Token`."""

    def __init__(self, settings: TokenSettings, module: Module, link: TokenLink, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._module = module
        self._link = link
        self._clock = clock
        self._calls = CallDispatcher(settings, link)
        self._last_epoch: Login
        self._capabilities: Capabilities
        self._imports: Imports
        self._operated_at = -settings.sentinel_operation_interval
        self._chores: set[asyncio.Task[object]] = set()
        self._count_message: Callable[[bytes], Awaitable[None]] | None = None

    @classmethod
    async def open(cls, settings: TokenSettings, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """Load the module, log in with the PIN (one attempt), learn the objects, and probe the mechanisms.

        Raises `PinRefused` if the token refuses the PIN, else `TokenUnavailable`. `clock` is what the age of derived
        keys is measured by.
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
        epoch = self._last_epoch = self._link.require()

        def learn(_: Login) -> Capabilities:
            capabilities = probe(epoch)
            epoch.connection.run(lambda session: measure(epoch, session, self._calls.inline_policy))
            return capabilities

        deadline = self._settings.start_deadline
        self._capabilities = await self._calls.on_thread("open_token", None, learn, deadline=deadline)
        self._imports = Imports(self._settings, self._calls, self._link, self._clock)
        self._chores.add(asyncio.get_running_loop().create_task(self._sweep_derived_keys(), name="kmsd-token-sweep"))
        log.info(
            "token_open", label=self.info.label, serial=self.info.serial, pace=self._calls.inline_policy.snapshot()
        )

    def count_messages_by(self, count: Callable[[bytes], Awaitable[None]]) -> None:
        """Have `count` called, with the object's id, before each message under AES-256-GCM with a random nonce."""
        self._count_message = count

    # --- the port: facts ----------------------------------------------------------------------------

    @property
    def info(self) -> TokenInfo:
        """Which token this is."""
        return self._last_epoch.connection.info

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, probed when it was opened."""
        return self._capabilities

    @property
    def counters(self) -> TokenCounters:
        """Figures for metrics, as of now."""
        epoch = self._link.login
        in_use, free = epoch.connection.sessions if epoch else (0, 0)
        return TokenCounters(
            calls={name: replace(one, classes=list(one.buckets)) for name, one in self._calls.counters.items()},
            sessions_in_use=in_use,
            sessions_free=free,
            waiting=self._calls.workers.waiting,
            abandoned=self._calls.workers.abandoned,
            derived_keys=len(epoch.derived) if epoch else 0,
            derived_hits=epoch.derived.hits if epoch else 0,
            derived_misses=epoch.derived.misses if epoch else 0,
            handle_hits=epoch.objects.hits if epoch else 0,
            handle_misses=epoch.objects.misses if epoch else 0,
            epoch=epoch.number if epoch else 0,
            reconnects=self._link.reconnects,
            pace=self._calls.inline_policy.snapshot(),
        )

    # --- the port: data path ------------------------------------------------------------------------

    async def import_capabilities(self) -> ImportCapabilities:
        """How key material may come in."""
        skills = await self._imports.capabilities()
        return ImportCapabilities(skills.imports, skills.passes_on, TRANSPORT in skills.imports)

    async def random(self, count: int) -> bytes:
        """`count` random bytes from the token's generator."""
        if not 1 <= count <= _RANDOM_LIMIT:
            raise ValueError(f"between 1 and {_RANDOM_LIMIT} random bytes, not {count}")

        def call(login: Login, session: Session) -> bytes:
            return login.connection.raw.random(session.handle, count)

        return await self._calls.data("random", None, call, size=count)

    async def encrypt(self, object_id: bytes, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Nonce, ciphertext and tag, joined."""
        self._require_algorithm(algorithm)
        if not aad:
            raise ValueError("associated data must not be empty")
        if algorithm is Algorithm.AES_256_GCM and self._count_message is not None:
            await self._count_message(object_id)

        def call(login: Login, session: Session) -> bytes:
            return login.sealing.seal(session, object_id, algorithm, plaintext, aad)

        return await self._calls.data("seal", object_id, call, size=len(plaintext), algorithm=algorithm)

    async def decrypt(self, object_id: bytes, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext of what `encrypt` returned."""
        self._require_algorithm(algorithm)
        well_formed(algorithm, sealed, aad)

        def call(login: Login, session: Session) -> bytes:
            return login.sealing.open(session, object_id, algorithm, sealed, aad)

        prefix = sealed[:PREFIX_LENGTH]
        return await self._calls.data("open", object_id, call, size=len(sealed), algorithm=algorithm, prefix=prefix)

    async def sign(self, object_id: bytes, digest: bytes) -> bytes:
        """ECDSA signature of a SHA-256 `digest`, DER-encoded."""
        if len(digest) != DIGEST_LENGTH:
            raise ValueError(f"a SHA-256 digest has {DIGEST_LENGTH} bytes, not {len(digest)}")

        def call(login: Login, session: Session) -> bytes:
            handle = login.objects.entry(session, object_id).handle
            return login.connection.raw.sign(session.handle, handle, _ECDSA, digest)

        return der_signature(await self._calls.data("sign", object_id, call, size=0))

    def _require_algorithm(self, algorithm: Algorithm) -> None:
        if algorithm not in self._capabilities.algorithms:
            raise MechanismMissing(f"the token does not offer what {algorithm.name} needs")

    # --- the port: objects --------------------------------------------------------------------------

    async def generate_key(self, object_id: bytes, algorithm: Algorithm) -> None:
        """Make an AES-256 object for sealing; durable and proven on return."""
        self._require_algorithm(algorithm)
        _check_id(object_id)

        def make(login: Login) -> None:
            login.connection.run(lambda session: login.objects.create_encryption_key(session, object_id, algorithm))
            sync_folder(self._settings.token_dir_sync)

        await self._calls.on_thread("generate_key", object_id, make)

    async def generate_signing_key(self, object_id: bytes) -> bytes:
        """Make an ECDSA P-256 pair; durable and proven on return. Its public key, DER SubjectPublicKeyInfo."""
        _check_id(object_id)
        if "CKM_ECDSA" not in self._capabilities.mechanisms:
            raise MechanismMissing("the token does not offer CKM_ECDSA")

        def make(login: Login) -> bytes:
            login.connection.run(lambda session: login.objects.create_signing_pair(session, object_id))
            sync_folder(self._settings.token_dir_sync)
            return login.connection.run(lambda session: login.objects.point(session, object_id))

        return spki_of_ec_point(await self._calls.on_thread("generate_signing_key", object_id, make))

    async def public_key(self, object_id: bytes) -> bytes:
        """DER SubjectPublicKeyInfo of a pair."""

        def read(login: Login) -> bytes:
            return login.connection.run(lambda session: login.objects.point(session, object_id))

        return spki_of_ec_point(await self._calls.on_thread("public_key", object_id, read))

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        """Make an RSA pair that unwraps; durable and proven on return. Its public key, DER SubjectPublicKeyInfo."""
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
        """Unwrap key material, prove it, and take it in. Its fingerprint."""
        if into is not None:
            _check_id(into[0])
            self._require_algorithm(into[1])
        return await self._imports.unwrap_key(wrapped, mac_message, expected, into)

    async def transport_key(self) -> bytes:
        """The public key for which another token wraps what it passes on to this one."""
        return await self._imports.transport_key()

    async def rewrap_for(self, wrapped: Wrapped, transport_key: bytes) -> Wrapped:
        """Unwrap key material, and wrap it for the token of this transport key."""
        return await self._imports.rewrap_for(wrapped, transport_key)

    async def destroy(self, object_id: bytes) -> None:
        """Destroy all objects of this id; durable, and looked up again, on return. The sentinel is refused."""
        _check_id(object_id)
        if object_id == self._settings.sentinel:
            raise TokenError("the sentinel is not destroyed while it is what proves the token's presence")

        def destroy(login: Login) -> None:
            with self._link.locks.destroying(object_id, self._settings.deadline):
                login.invalidate(object_id)
                login.derived.destroy_retired()
                login.connection.run(lambda session: login.objects.destroy(session, object_id))
            # A token that is away shows no objects either.
            self._link.verify_token(login)
            sync_folder(self._settings.token_dir_sync)

        await self._calls.on_thread("destroy", None, destroy)

    async def list_objects(self) -> Sequence[ObjectReport]:
        """All objects that carry the daemon's label, malformed ones too."""

        def look(login: Login) -> list[ObjectReport]:
            reports = login.connection.run(login.objects.report)
            self._link.verify_token(login)
            return reports

        return await self._calls.on_thread("list_objects", None, look)

    async def attributes(self, object_id: bytes) -> dict[str, bool | bytes | int]:
        """What the secret or private object of this id shows of itself, by `CKA_…`. Raises `NoSuchObject`."""

        def read(login: Login) -> dict[int, bytes]:
            return login.connection.run(lambda session: login.objects.read(session, object_id))

        values = await self._calls.on_thread("attributes", object_id, read)
        return {attribute_name(kind): _typed(values, kind) for kind in values}

    # --- the port: life -----------------------------------------------------------------------------

    def invalidate(self, object_id: bytes) -> None:
        """Drop every handle and derived key of this object from memory, now; the token destroys them at once after."""
        epoch = self._link.login
        if epoch is not None:
            epoch.invalidate(object_id)
            if epoch.derived.retired_count:
                self._chore(self._destroy_retired(epoch))

    async def check(self) -> None:
        """Prove that the token is there and logged in: read the sentinel, and now and then work with it."""
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
        """End all sessions and release the module. Calls under way are finished first."""
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
            await self._calls.workers.run(login.derived.destroy_retired, deadline=self._settings.deadline)
        except (CkrError, TokenError) as error:
            # They cannot be used any more in any case; the end of the session destroys them.
            log.warning("token_derived_keys_left", count=login.derived.retired_count, reason=str(error))

    async def _sweep_derived_keys(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._settings.derived_key_age / 4))
            epoch = self._link.login
            if epoch is not None:
                epoch.derived.sweep()
                if epoch.derived.retired_count:
                    await self._destroy_retired(epoch)


def _check_id(object_id: bytes) -> None:
    if type(object_id) is not bytes or len(object_id) != OBJECT_ID_LENGTH:
        raise ValueError(f"an object id is {OBJECT_ID_LENGTH} bytes")


def _typed(values: dict[int, bytes], kind: int) -> bool | bytes | int:
    if kind in INTEGER_ATTRIBUTES:
        shown = number(values, kind)
        return values[kind] if shown is None else shown
    if kind in (Attribute.ID, Attribute.LABEL):
        return values[kind]
    truth = flag(values, kind)
    return values[kind] if truth is None else truth
