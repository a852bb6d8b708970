"""Self-tests at start: a known answer for each mechanism that kmsd uses.

The mechanism list proves nothing: SoftHSM lists OAEP, but refuses it with SHA-256. To add a probe, write a function
that raises if the answer is wrong, and add a row to `PROBES`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11 import signature_schemes
from kmsd.adapters.pkcs11.cryptoki_types import flag
from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.handle_cache import Entry
from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS, session_pair
from kmsd.adapters.pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.custody.public_keys import is_valid_signature, load
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.domain.material import Algorithm
from kmsd.ports import Capabilities, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session

log = structlog.get_logger(__name__)
_SIGNING = SigningAlgorithm.ECDSA_SHA_256
_DIGEST = bytes(range(32))


class Probe(msgspec.Struct, frozen=True):
    """One mechanism, its self-test, and what the API loses without it."""

    mechanism: str
    loses: str
    run: Callable[[Login, Session], None]
    algorithm: Algorithm | None = None


# McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16.
_GCM_KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
_GCM_IV = bytes.fromhex("cafebabefacedbaddecaf888")
_GCM_TEXT = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
_GCM_AAD = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_GCM_SEALED = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
    "76fc6ece0f4e1768cddf8853bb2d551b"
)
# C2SP XAES-256-GCM, second test vector: it has associated data, and its subkey's doubling carries.
_XAES_KEY = bytes([3]) * 32
_XAES_NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"
_XAES_TEXT = b"XAES-256-GCM"
_XAES_AAD = b"c2sp.org/XAES-256-GCM"
_XAES_SEALED = bytes.fromhex("986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d")


def _test_key(login: Login, session: Session, value: bytes, *roles: Attribute) -> int:
    """Create a session object with a published value. Tokens that refuse plaintext keys raise `CkrError`."""
    template: dict[int, Value] = {**session_key(KeyType.AES, len(value), roles), Attribute.VALUE: value}
    # "CKA_VALUE_LEN … must not be specified when creating an object by C_CreateObject" (PKCS#11 v2.40, table 8).
    del template[Attribute.VALUE_LEN]
    return login.connection.raw.create(session.handle, template)


def _check_refusal(login: Login, session: Session, key: int) -> None:
    """Check that a changed ciphertext is refused, with any code of class `DATA` or `SUSPECT`."""
    tampered = bytes([_GCM_SEALED[0] ^ 1]) + _GCM_SEALED[1:]
    try:
        login.connection.raw.gcm_decrypt(session.handle, key, _GCM_IV, tampered, _GCM_AAD, session.scratch)
    except CkrError as error:
        if error.function != "C_Decrypt" or error.error_class not in (ErrorClass.DATA, ErrorClass.SUSPECT):
            raise
    else:
        raise WrongAnswer


def _gcm(login: Login, session: Session) -> None:
    raw, at, handle = login.connection.raw, session.scratch, session.handle
    key = _test_key(login, session, _GCM_KEY, Attribute.ENCRYPT, Attribute.DECRYPT)
    try:
        sealed = raw.gcm_encrypt(handle, key, _GCM_IV, _GCM_TEXT, _GCM_AAD, at)
        if sealed[:12] == _GCM_IV:
            expect(sealed[12:], _GCM_SEALED)
        else:
            # The token generated the nonce itself: two nonces must differ, and decryption proves the rest.
            again = raw.gcm_encrypt(handle, key, _GCM_IV, _GCM_TEXT, _GCM_AAD, at)
            expect(again[:12] != sealed[:12], True)
            expect(raw.gcm_decrypt(handle, key, sealed[:12], sealed[12:], _GCM_AAD, at), _GCM_TEXT)
        expect(raw.gcm_decrypt(handle, key, _GCM_IV, _GCM_SEALED, _GCM_AAD, at), _GCM_TEXT)
        _check_refusal(login, session, key)
    finally:
        raw.destroy(handle, key)


def _xaes(login: Login, session: Session) -> None:
    raw = login.connection.raw
    base = _test_key(login, session, _XAES_KEY, Attribute.DERIVE)
    mark = b"probe of XAES-256-GCM"
    try:
        key = login.derived.derive(mark, Entry(handle=base), _XAES_NONCE[:12], to_seal=False)
        try:
            shown = raw.attributes(session.handle, key.handle, (Attribute.SENSITIVE, Attribute.EXTRACTABLE))
            expect((flag(shown, Attribute.SENSITIVE), flag(shown, Attribute.EXTRACTABLE)), (True, False))
            opened = raw.gcm_decrypt(
                session.handle, key.handle, _XAES_NONCE[12:], _XAES_SEALED, _XAES_AAD, session.scratch
            )
            expect(opened, _XAES_TEXT)
        finally:
            login.derived.done(key)
    finally:
        login.derived.invalidate(mark)
        login.derived.destroy_retired()
        raw.destroy(session.handle, base)


def _random(login: Login, session: Session) -> None:
    first, second = (login.connection.raw.random(session.handle, 32) for _ in range(2))
    expect(first != second and bytes(32) not in (first, second), True)


def _ecdsa(login: Login, session: Session) -> None:
    """Sign with a pair of session objects, and verify the signature in software."""
    with _signing_pair(login, session) as (sign, public):
        shown = login.connection.raw.attributes(session.handle, public, PUBLIC_KEY_ATTRIBUTES)
        expect(is_valid_signature(load(spki_of(shown)), _SIGNING, _DIGEST, sign(), is_digest=True), True)


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
    Probe("CKM_AES_GCM", "all encryption and decryption", _gcm, Algorithm.AES_256_GCM),
    Probe(
        "CKM_AES_ECB_ENCRYPT_DATA",
        "XAES-256-GCM; keys are sealed by AES-256-GCM and must be rotated before 2^32 messages",
        _xaes,
        Algorithm.XAES_256_GCM,
    ),
    Probe("C_GenerateRandom", "GenerateRandom, data keys and nonces", _random),
    Probe("CKM_ECDSA", "signed audit checkpoints", _ecdsa),
)


def probe(login: Login) -> Capabilities:
    """Test every mechanism on temporary session objects. Raises `TokenUnavailable` if the module was finalised."""
    passed: set[str] = set()
    algorithms: set[Algorithm] = set()
    missing: list[tuple[str, str]] = []
    for row in PROBES:
        try:
            login.connection.run(lambda session, row=row: row.run(login, session))  # type: ignore[misc]
        except (CkrError, WrongAnswer, KeyError) as error:
            if isinstance(error, CkrError) and error.rv == Ckr.CRYPTOKI_NOT_INITIALIZED:
                raise TokenUnavailable(str(error)) from error
            log.warning("token_mechanism_missing", mechanism=row.mechanism, loses=row.loses, reason=str(error))
            missing.append((row.mechanism, row.loses))
        else:
            passed.add(row.mechanism)
            algorithms.update({row.algorithm} if row.algorithm else ())
    return Capabilities(frozenset(algorithms), frozenset(passed), tuple(missing))


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
    raw, at, handle = login.connection.raw, session.scratch, session.handle
    key = _test_key(login, session, _GCM_KEY, Attribute.ENCRYPT, Attribute.DECRYPT)
    try:
        policy.measure("seal", lambda: raw.gcm_encrypt(handle, key, None, _GCM_TEXT, _GCM_AAD, at))
        sealed = raw.gcm_encrypt(handle, key, None, _GCM_TEXT, _GCM_AAD, at)
        policy.measure("open", lambda: raw.gcm_decrypt(handle, key, sealed[:12], sealed[12:], _GCM_AAD, at))
    finally:
        raw.destroy(handle, key)


def _measure_ecdsa(login: Login, session: Session, policy: InlinePolicy) -> None:
    """Measure the one algorithm that is used before the self-tests of all (`kmsd.adapters.pkcs11.key_calls`) ran."""
    with _signing_pair(login, session) as (sign, _):
        policy.measure(_SIGNING, sign)
