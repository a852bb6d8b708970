"""Self-tests of every key spec and usage: what the token really offers, algorithm by algorithm.

A pair of session objects is generated for each curve and set of parameters, and used; `cryptography` verifies the
results. RSA has one pair for each usage, a published one, because the generation of a pair takes a tenth of a second;
the token's list must have the sizes. The list alone proves nothing: SoftHSM 2.6.1 lists OAEP, but refuses it with
SHA-256.
"""

from __future__ import annotations

import hmac
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem
from pkcs11 import Attribute, KeyType, Mechanism

from kmsd.adapters.pkcs11 import key_operations, pair_proofs, signature_schemes
from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS, MAC_MECHANISMS, mac_algorithm_of, mechanisms_of, session_pair
from kmsd.adapters.pkcs11.pair_proofs import MESSAGE
from kmsd.adapters.pkcs11.public_keys import ML_KEM_512_HEAD, PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass
from kmsd.adapters.pkcs11.rsa_test_pair import TEST_BITS, rsa_test_pair
from kmsd.adapters.pkcs11.signature_schemes import SCHEMES, UNSUPPORTED, digest_of
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.key_spec import (
    ALGORITHMS,
    HMAC_BITS,
    RSA_BITS,
    EncryptionAlgorithm,
    KeySpec,
    KeyUsage,
    SigningAlgorithm,
)
from kmsd.ports import KeyOffer, TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool

    Verify = Callable[[bytes], object]

log = structlog.get_logger(__name__)
_FAULTS = (WrongAnswer, InvalidSignature, TokenError, ValueError)
"""Errors of a self-test whose answer is wrong."""


class TestedKeys(msgspec.Struct, frozen=True):
    """Result of the self-tests."""

    offers: Mapping[tuple[KeySpec, KeyUsage], KeyOffer]
    hashes_messages: frozenset[SigningAlgorithm]
    """Signing algorithms whose hash the token computes, for every spec of theirs."""
    lacking: Mapping[str, str]
    """The reason for each algorithm that works with no spec."""


class _Pair(msgspec.Struct, frozen=True):
    private: int
    public: int
    public_key: bytes


class KeyTests:
    """Self-tests on one token. `run` takes a few hundred milliseconds."""

    def __init__(self, connection: SessionPool, policy: InlinePolicy) -> None:
        self._connection = connection
        self._raw = connection.raw
        self._policy = policy
        self._rsa: dict[KeyUsage, Mapping[str, str]] = {}
        self._hashes_messages: dict[SigningAlgorithm, bool] = {}

    def run(self) -> TestedKeys:
        """Test every spec and usage except symmetric encryption. Raises `CkrError` if a session ends meanwhile."""
        offers: dict[tuple[KeySpec, KeyUsage], KeyOffer] = {}
        for spec, usages in ALGORITHMS.items():
            if spec is KeySpec.SYMMETRIC_DEFAULT:
                continue
            for usage, algorithms in usages.items():
                found = self._reasons(spec, usage, algorithms)
                lacking = {name: reason for name, reason in found.items() if reason}
                offers[spec, usage] = KeyOffer(tuple(name for name in algorithms if name not in lacking), lacking)
        hashing = frozenset(algorithm for algorithm, works in self._hashes_messages.items() if works)
        log.info("token_key_offers", offered=[f"{spec} {usage}" for (spec, usage), o in offers.items() if o.algorithms])
        reasons = {name: reason for offer in offers.values() for name, reason in offer.lacking.items()}
        works = {name for offer in offers.values() for name in offer.algorithms}
        return TestedKeys(offers, hashing, {name: reason for name, reason in reasons.items() if name not in works})

    def _reasons(self, spec: KeySpec, usage: KeyUsage, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """Return for each algorithm why it does not work; empty if it does."""
        if spec is KeySpec.SM2:
            return dict.fromkeys(algorithms, "PKCS#11 has no mechanism for SM2")
        if spec in HMAC_BITS:
            return dict.fromkeys(algorithms, self._mac(spec))
        if spec in RSA_BITS:
            return self._rsa_reasons(spec, usage, algorithms)
        return self._pair_reasons(spec, usage, algorithms)

    # --- steps --------------------------------------------------------------------------------------

    def _try(self, mechanism: int, test: Callable[[Session], object]) -> str:
        """Run one test with a session of its own. Return why the mechanism does not work; empty if it does."""
        name = f"CKM_{Mechanism(mechanism).name}"
        try:
            if self._raw.key_sizes(self._connection.slot, mechanism) is None:
                return f"the token does not list {name}"
            self._connection.run(test)
        except CkrError as error:
            if error.error_class in (ErrorClass.SESSION, ErrorClass.PIN):
                raise
            return f"{name} fails ({error})"
        except _FAULTS as error:
            return f"{name} gives a wrong result ({str(error) or type(error).__name__})"
        return ""

    @contextmanager
    def _objects(self) -> Iterator[int]:
        """Open a session for objects that several tests use. They end with it."""
        session = self._connection.open_session()
        try:
            yield session.handle
        finally:
            session.close()

    # --- RSA ----------------------------------------------------------------------------------------

    def _rsa_reasons(self, spec: KeySpec, usage: KeyUsage, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        bits = RSA_BITS[spec]
        if reason := self._size_fault(Mechanism.RSA_PKCS_KEY_PAIR_GEN, bits):
            return dict.fromkeys(algorithms, reason)
        if usage not in self._rsa:
            kind = next(other for other, size in RSA_BITS.items() if size == TEST_BITS), usage
            self._rsa[usage] = self._pair_reasons(*kind, algorithms)
        return {name: self._rsa[usage][name] or self._size_fault(_rsa_mechanism(name), bits) for name in algorithms}

    def _size_fault(self, mechanism: int, bits: int) -> str:
        """Return why the mechanism does not take keys of this length; empty if it does."""
        sizes = self._raw.key_sizes(self._connection.slot, mechanism)
        if sizes is not None and sizes[0] <= bits <= sizes[1]:
            return ""
        return f"the token does not list CKM_{Mechanism(mechanism).name} with {bits} bits"

    # --- pairs --------------------------------------------------------------------------------------

    def _pair_reasons(self, spec: KeySpec, usage: KeyUsage, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """Generate a pair, and test each algorithm with it."""
        made: list[_Pair] = []
        with self._objects() as session:
            generation = KEY_PAIRS[spec, usage].generation
            reason = self._try(generation, lambda _: made.append(self._generate(session, spec, usage)))
            if reason:
                return {name: UNSUPPORTED.get(name, reason) for name in algorithms}
            return {name: self._algorithm(spec, usage, name, made[0]) for name in algorithms}

    def _generate(self, session: int, spec: KeySpec, usage: KeyUsage) -> _Pair:
        pair = KEY_PAIRS[spec, usage]
        if spec in RSA_BITS:
            return _Pair(*rsa_test_pair(self._raw, session, pair))
        private, public = self._raw.generate_pair(session, pair.generation, *session_pair(pair))
        return _Pair(private, public, spki_of(self._raw.attributes(session, public, PUBLIC_KEY_ATTRIBUTES)))

    def _algorithm(self, spec: KeySpec, usage: KeyUsage, name: str, pair: _Pair) -> str:
        """Test one algorithm. Return why it does not work; empty if it does."""
        if name in UNSUPPORTED:
            return UNSUPPORTED[name]
        if usage is KeyUsage.SIGN_VERIFY:
            return self._signing(SigningAlgorithm(name), pair)
        if usage is KeyUsage.ENCRYPT_DECRYPT:
            algorithm = EncryptionAlgorithm(name)
            return self._try(mechanisms_of(spec, usage)[0], lambda s: self._decrypt(s.handle, algorithm, pair))
        test = self._agree if usage is KeyUsage.KEY_AGREEMENT else self._encapsulate
        return self._try(mechanisms_of(spec, usage)[0], lambda s: test(s.handle, pair))

    def _signing(self, algorithm: SigningAlgorithm, pair: _Pair) -> str:
        scheme = SCHEMES[algorithm]
        in_token = self._try(int(scheme.of_message), lambda s: self._sign(s.handle, algorithm, pair, is_digest=False))
        if scheme.of_digest is None:
            return in_token
        known = self._hashes_messages.get(algorithm, True)
        self._hashes_messages[algorithm] = known and not in_token
        return self._try(int(scheme.of_digest), lambda s: self._sign(s.handle, algorithm, pair, is_digest=True))

    def _sign(self, session: int, algorithm: SigningAlgorithm, pair: _Pair, *, is_digest: bool) -> None:
        pair_proofs.sign(self._raw, session, pair.private, pair.public_key, algorithm, is_digest=is_digest)
        # RSA always runs on threads. P-256 comes before secp256k1, which has the same algorithm and is used less.
        if not algorithm.startswith("RSA") and algorithm not in self._policy.snapshot():
            data = digest_of(algorithm, MESSAGE) if is_digest else MESSAGE
            self._policy.measure(
                algorithm,
                lambda: signature_schemes.sign(self._raw, session, pair.private, algorithm, data, is_digest=is_digest),
            )

    def _decrypt(self, session: int, algorithm: EncryptionAlgorithm, pair: _Pair) -> None:
        pair_proofs.decrypt(self._raw, session, pair.private, pair.public_key, algorithm)

    def _agree(self, session: int, pair: _Pair) -> None:
        pair_proofs.agree(self._raw, session, pair.private, pair.public_key)

    def _encapsulate(self, session: int, pair: _Pair) -> None:
        secret, ciphertext = key_operations.encapsulate(self._raw, session, pair.public)
        expect(key_operations.decapsulate(self._raw, session, pair.private, ciphertext), secret)
        if pair.public_key.startswith(ML_KEM_512_HEAD):
            return  # `cryptography` does not have it
        key = serialization.load_der_public_key(pair.public_key)
        if not isinstance(key, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
            raise WrongAnswer
        secret, ciphertext = key.encapsulate()
        expect(key_operations.decapsulate(self._raw, session, pair.private, ciphertext), secret)

    # --- MACs ---------------------------------------------------------------------------------------

    def _mac(self, spec: KeySpec) -> str:
        """Compare a MAC under a published key, or two MACs under a generated one; generate a key in any case."""
        algorithm, length = mac_algorithm_of(spec), HMAC_BITS[spec] // 8
        made: list[int] = []
        template = session_key(KeyType.GENERIC_SECRET, length, (Attribute.SIGN,))
        with self._objects() as session:
            generate = int(Mechanism.GENERIC_SECRET_KEY_GEN)
            reason = self._try(generate, lambda _: made.append(self._raw.generate(session, generate, template)))
            if reason:
                return reason
            value = bytes(range(length))
            given: dict[int, Value] = {**template, Attribute.VALUE: value}
            del given[Attribute.VALUE_LEN]  # C_CreateObject refuses it (PKCS#11 v2.40, table 8)

            def compute(session: int, key: int, message: bytes = MESSAGE) -> bytes:
                return key_operations.mac(self._raw, session, key, algorithm, message)

            def test(lent: Session) -> None:
                first, second = (compute(lent.handle, made[0], message) for message in (MESSAGE, MESSAGE[1:]))
                expect((len(first), len(second), first != second), (length, length, True))
                self._policy.measure(algorithm, lambda: compute(lent.handle, made[0]))
                try:
                    known = self._raw.create(session, given)
                except CkrError as error:
                    log.info("token_refuses_known_keys", reason=str(error))
                    return
                hash_name = algorithm.removeprefix("HMAC_").replace("_", "")
                expect(compute(lent.handle, known), hmac.digest(value, MESSAGE, hash_name))

            return self._try(MAC_MECHANISMS[algorithm], test)


def _rsa_mechanism(algorithm: str) -> int:
    """Return the mechanism that an algorithm of RSA keys cannot do without."""
    scheme = SCHEMES.get(SigningAlgorithm(algorithm)) if algorithm.startswith("RSASSA") else None
    return int(Mechanism.RSA_PKCS_OAEP if scheme is None or scheme.of_digest is None else scheme.of_digest)
