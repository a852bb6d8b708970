"""Self-tests at start: a known answer for each mechanism that kmsd uses.

The mechanism list proves nothing: SoftHSM lists OAEP, but refuses it with SHA-256. To add a probe, write a function
that raises if the answer is wrong, and add a row to `PROBES`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog
from pkcs11 import Attribute

from kmsd.adapters.pkcs11 import signature_schemes
from kmsd.adapters.pkcs11.aead_self_tests import ANSWERS, Proven, prove_gcm, prove_xaes
from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.gcm_scratch import GIVEN
from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS, session_pair
from kmsd.adapters.pkcs11.known_keys import known_keys
from kmsd.adapters.pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.custody.public_keys import is_valid_signature, load
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import Capabilities, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
    from kmsd.adapters.pkcs11.known_keys import KnownKeys
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session

log = structlog.get_logger(__name__)
_SIGNING = SigningAlgorithm.ECDSA_SHA_256
_DIGEST = bytes(range(32))


class Probe(msgspec.Struct, frozen=True):
    """One mechanism, its self-test, and what the API loses without it."""

    mechanism: str
    loses: str
    run: Callable[[Login, Session, KnownKeys], Proven]
    """Raises `CkrError`, `WrongAnswer` if the mechanism does not work."""


def _random(login: Login, session: Session, _keys: KnownKeys) -> Proven:
    first, second = (login.connection.raw.random(session.handle, 32) for _ in range(2))
    expect(first != second and bytes(32) not in (first, second), True)
    return Proven()


def _ecdsa(login: Login, session: Session, _keys: KnownKeys) -> Proven:
    """Sign with a pair of session objects, and verify the signature in software."""
    with _signing_pair(login, session) as (sign, public):
        shown = login.connection.raw.attributes(session.handle, public, PUBLIC_KEY_ATTRIBUTES)
        expect(is_valid_signature(load(spki_of(shown)), _SIGNING, _DIGEST, sign(), is_digest=True), True)
    return Proven()


@contextmanager
def _signing_pair(login: Login, session: Session) -> Iterator[tuple[Callable[[], bytes], int]]:
    """Make a pair on P-256 of session objects. Yield what signs `_DIGEST` with it, and the public key's handle."""
    raw, pair = login.connection.raw, KEY_PAIRS[KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY]
    private, public = raw.generate_pair(session.handle, pair.generation, *session_pair(pair))

    def sign() -> bytes:
        return signature_schemes.sign(raw, session.handle, private, _SIGNING, _DIGEST, is_digest=True)

    try:
        yield sign, public
    finally:
        raw.destroy(session.handle, public)
        raw.destroy(session.handle, private)


PROBES: tuple[Probe, ...] = (
    Probe("CKM_AES_GCM", "all encryption and decryption", prove_gcm),
    Probe(
        "CKM_AES_ECB_ENCRYPT_DATA",
        "XAES-256-GCM; keys are sealed by AES-256-GCM and must be rotated before 2^32 messages",
        prove_xaes,
    ),
    Probe("C_GenerateRandom", "GenerateRandom, data keys and nonces", _random),
    Probe("CKM_ECDSA", "signed audit checkpoints", _ecdsa),
)


def probe(login: Login) -> Capabilities:
    """Test every mechanism on temporary session objects. Raises `TokenUnavailable` if the module was finalised."""
    proven: dict[str, Proven] = {}
    missing: list[tuple[str, str]] = []
    with known_keys(login.connection) as keys:
        for row in PROBES:
            try:
                proven[row.mechanism] = login.connection.run(lambda session, row=row: row.run(login, session, keys))  # type: ignore[misc]
            except (CkrError, WrongAnswer, KeyError) as error:
                if isinstance(error, CkrError) and error.rv == Ckr.CRYPTOKI_NOT_INITIALIZED:
                    raise TokenUnavailable(str(error)) from error
                log.warning("token_mechanism_missing", mechanism=row.mechanism, loses=row.loses, reason=str(error))
                missing.append((row.mechanism, row.loses))
    seals = frozenset(algorithm for one in proven.values() for algorithm in one.seals)
    opens = frozenset(algorithm for one in proven.values() for algorithm in one.opens)
    return Capabilities(seals, opens, frozenset(proven), tuple(missing))


def measure(login: Login, session: Session, policy: InlinePolicy) -> None:
    """Measure the calls of the data path on temporary session objects. Calls that fail stay unmeasured."""
    policy.measure("random", lambda: login.connection.raw.random(session.handle, 32))
    for kind in (_measure_gcm, _measure_ecdsa):
        try:
            kind(login, session, policy)
        except CkrError as error:
            # Unmeasured calls run on threads.
            log.info("token_pace_unknown", reason=str(error))


def _measure_gcm(login: Login, session: Session, policy: InlinePolicy) -> None:
    """Measure the first algorithm that the token encrypts with: the time of all is that of CKM_AES_GCM."""
    raw, handle, requests = login.connection.raw, session.handle, login.sealing.requests
    algorithm = next((algorithm for algorithm in ANSWERS if algorithm in requests), None)
    if algorithm is None:
        return
    answer, at, cut = ANSWERS[algorithm], session.scratches[requests[algorithm]], algorithm.nonce_length
    to_open = session.scratches[GIVEN[cut]]
    with known_keys(login.connection) as keys:
        key = keys.create(answer.key, Attribute.ENCRYPT, Attribute.DECRYPT)
        policy.measure("seal", lambda: raw.gcm_encrypt(handle, key, None, answer.text, answer.aad, at))
        sealed = raw.gcm_encrypt(handle, key, None, answer.text, answer.aad, at)
        policy.measure("open", lambda: raw.gcm_decrypt(handle, key, sealed[:cut], sealed[cut:], answer.aad, to_open))


def _measure_ecdsa(login: Login, session: Session, policy: InlinePolicy) -> None:
    """Measure the one algorithm that is used before the self-tests of all (`kmsd.adapters.pkcs11.key_calls`) ran."""
    with _signing_pair(login, session) as (sign, _):
        policy.measure(_SIGNING, sign)
