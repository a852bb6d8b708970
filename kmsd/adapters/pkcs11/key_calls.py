"""Methods of the Token port for key pairs and MAC keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.pkcs11 import key_operations, signature_schemes
from kmsd.adapters.pkcs11.key_operations import ML_KEM_SECRET_LENGTH
from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS
from kmsd.adapters.pkcs11.key_self_tests import KeyTests, TestedKeys
from kmsd.adapters.pkcs11.signature_schemes import SCHEMES, digest_of, require_digest
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.domain.key_spec import EncapsulationAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import MechanismMissing

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.key_spec import EncryptionAlgorithm, MacAlgorithm
    from kmsd.domain.material import KeyReference

_TESTED_AT_START = (KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
"""Kind of the audit key. `kmsd.adapters.pkcs11.self_tests` tests it, so that its use needs no further tests."""


class KeyCalls(msgspec.Struct):
    """Methods of one token, specified in `kmsd.ports.Token`. All may be called concurrently."""

    settings: TokenSettings
    calls: CallDispatcher
    link: TokenLink
    has_ecdsa: bool
    """True if the test at start found that CKM_ECDSA works on P-256."""
    _tested: TestedKeys | None = None
    _testing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    # --- what works ---------------------------------------------------------------------------------

    async def tested(self) -> TestedKeys:
        """Return the result of the self-tests; the first call runs them. Raises `TokenError`."""
        if self._tested is None:
            async with self._testing:
                if self._tested is None:
                    deadline = self.settings.start_deadline
                    self._tested = await self.calls.on_thread("test_keys", None, self._test, deadline=deadline)
        return self._tested

    def _test(self, login: Login) -> TestedKeys:
        tested = KeyTests(login.connection, self.calls.inline_policy).run()
        # A token that went away fails every test without lacking anything.
        self.link.verify_token(login)
        return tested

    async def _require(self, algorithm: str) -> TestedKeys:
        tested = await self.tested()
        if (reason := tested.lacking.get(algorithm)) is not None:
            raise MechanismMissing(reason)
        return tested

    async def _require_kind(self, spec: KeySpec, usage: KeyUsage) -> None:
        if (spec, usage) == _TESTED_AT_START and self.has_ecdsa:
            return
        offer = (await self.tested()).offers[spec, usage]
        if not offer.algorithms:
            raise MechanismMissing("; ".join(dict.fromkeys(offer.lacking.values())))

    # --- objects ------------------------------------------------------------------------------------

    async def generate_mac_key(self, object_id: bytes, spec: KeySpec) -> None:
        await self._require_kind(spec, KeyUsage.GENERATE_VERIFY_MAC)

        def make(login: Login) -> None:
            login.connection.run(lambda session: login.objects.create_mac_key(session, object_id, spec))
            sync_folder(self.settings.token_dir_sync)

        await self.calls.on_thread("generate_mac_key", object_id, make)

    async def generate_key_pair(self, object_id: bytes, spec: KeySpec, usage: KeyUsage) -> bytes:
        await self._require_kind(spec, usage)
        pair = KEY_PAIRS[spec, usage]

        def make(login: Login) -> bytes:
            public_key = login.connection.run(lambda session: login.objects.create_pair(session, object_id, pair))
            sync_folder(self.settings.token_dir_sync)
            return public_key

        return await self.calls.on_thread("generate_key_pair", object_id, make)

    async def public_key(self, object_id: bytes) -> bytes:
        def read(login: Login) -> bytes:
            return login.connection.run(lambda session: login.objects.public_key(session, object_id))

        return await self.calls.on_thread("public_key", object_id, read)

    # --- operations ---------------------------------------------------------------------------------

    async def sign(self, key: KeyReference, algorithm: SigningAlgorithm, message: bytes, *, is_digest: bool) -> bytes:
        if not (is_digest and self.has_ecdsa and algorithm is SigningAlgorithm.ECDSA_SHA_256):
            tested = await self._require(algorithm)
            if not is_digest and SCHEMES[algorithm].of_digest is not None and algorithm not in tested.hashes_messages:
                message, is_digest = digest_of(algorithm, message), True
        if is_digest:
            require_digest(algorithm, message)

        def call(login: Login, session: Session) -> bytes:
            raw = login.connection.raw
            with login.keys.held(session, key) as found:
                return signature_schemes.sign(
                    raw, session.handle, found.handle, algorithm, message, is_digest=is_digest
                )

        return await self.calls.data("sign", key, call, size=len(message), pace=algorithm)

    async def mac(self, key: KeyReference, algorithm: MacAlgorithm, message: bytes) -> bytes:
        await self._require(algorithm)

        def call(login: Login, session: Session) -> bytes:
            with login.keys.held(session, key) as found:
                return key_operations.mac(login.connection.raw, session.handle, found.handle, algorithm, message)

        return await self.calls.data("mac", key, call, size=len(message), pace=algorithm)

    async def decrypt_rsa(self, key: KeyReference, algorithm: EncryptionAlgorithm, ciphertext: bytes) -> bytes:
        await self._require(algorithm)

        def call(login: Login, session: Session) -> bytes:
            with login.keys.held(session, key) as found:
                return key_operations.decrypt_rsa(
                    login.connection.raw, session.handle, found.handle, algorithm, ciphertext
                )

        return await self.calls.data("decrypt_rsa", key, call, size=len(ciphertext))

    async def agree(self, key: KeyReference, peer_point: bytes) -> bytes:
        await self._require(KeyAgreementAlgorithm.ECDH)

        def call(login: Login, session: Session) -> bytes:
            with login.keys.held(session, key) as found:
                return key_operations.agree(login.connection.raw, session.handle, found.handle, peer_point)

        return await self.calls.data("agree", key, call, size=len(peer_point))

    async def encapsulate(self, key: bytes) -> tuple[bytes, bytes]:
        await self._require(EncapsulationAlgorithm.ML_KEM)

        def call(login: Login, session: Session) -> bytes:
            public = login.objects.public_handle(session, key)
            return b"".join(key_operations.encapsulate(login.connection.raw, session.handle, public))

        joined = await self.calls.data("encapsulate", key, call, size=0)
        return joined[:ML_KEM_SECRET_LENGTH], joined[ML_KEM_SECRET_LENGTH:]

    async def decapsulate(self, key: KeyReference, ciphertext: bytes) -> bytes:
        await self._require(EncapsulationAlgorithm.ML_KEM)

        def call(login: Login, session: Session) -> bytes:
            with login.keys.held(session, key) as found:
                return key_operations.decapsulate(login.connection.raw, session.handle, found.handle, ciphertext)

        return await self.calls.data("decapsulate", key, call, size=len(ciphertext))
