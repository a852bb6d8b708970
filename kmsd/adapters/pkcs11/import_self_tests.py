"""Self-tests of the wrapping algorithms: a known answer for each.

A published RSA key and published material take the path of an import: wrapped in software, unwrapped in the token and
verified there. Material rewrapped for another token is unwrapped in software. Material whose length is not 256 bits
must be detected. The mechanism list alone proves nothing: SoftHSM 2.6.1 lists OAEP, but refuses it with SHA-256.
"""

from __future__ import annotations

from functools import cache
from math import lcm
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.key_import import LENGTH, TO_PROVE, import_session
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.templates import wrapping_pair
from kmsd.adapters.pkcs11.wrap_mechanisms import HYBRID, KEY_WRAP, PADDED_KEY_WRAPS, TRANSPORT, public_key_of
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.ports import TokenUnavailable, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.cryptoki import WrapMechanism
    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.login import Login

    _Prove = Callable[[ImportSession, WrappingAlgorithm], None]

log = structlog.get_logger(__name__)

_BITS = 2048
# Not a secret: an RSA key generated for this self-test only, and published here.
_P = int(
    "ef91c9201eed89e2704524ab4f8211135d7f70d1e9f3e67ecc237168d937a6fe7c96fbaaaae3f9dcaae302d988126c3c"
    "42a164a70ec51c15ee45fd8e6b91017165d8296cc66059964aad1db2ea21e450458d81255eb8d24f73dab711ee5bd332"
    "5423b24ceb9f44fdc12340129d144f9e3e06adb45a4aa3793d0ffcfac8f6dae1",
    16,
)
_Q = int(
    "e62ff401a320b5307227f370b13ecb282c71c1782458c4d64e8860044302be91b54c72f1c30a9c5bcc83205122340330"
    "a1aeaefdd86f42c2af9b7c25644da3fcb4236a5e7bd8a3af0490f719fd70b2268bd195fef58d4220f0b9f31146902a3b"
    "3a5ef685a8fec574082c7c6ebdb9bea749431767d93755b780c7220efd831ee9",
    16,
)
_E = 65537
_MATERIAL = bytes(range(LENGTH))
_KEK = bytes(range(LENGTH, 2 * LENGTH))
_MARK = b"probe of imports"
_WRONG_LENGTHS = (24, 31, 33, 40)
_RSA_PAIR = int(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
_SHA_1 = hashes.SHA1()  # noqa: S303 (as the API has it)


class ProbedCapabilities(msgspec.Struct, frozen=True):
    """Result of the self-tests."""

    imports: frozenset[WrappingAlgorithm]
    """Algorithms that the token can unwrap, verify and store."""
    passes_on: frozenset[WrappingAlgorithm]
    """Algorithms that the token can unwrap and rewrap for another token."""
    padded_wrap: WrapMechanism | None
    """Mechanism under which the token implements RFC 5649; None if it does not."""

    @property
    def complete(self) -> bool:
        """True if every algorithm works for both."""
        return len(self.imports) == len(self.passes_on) == len(WrappingAlgorithm)

    def and_of(self, later: ProbedCapabilities) -> ProbedCapabilities:
        """Return the union of both results."""
        imports, passes_on = self.imports | later.imports, self.passes_on | later.passes_on
        return ProbedCapabilities(imports, passes_on, self.padded_wrap or later.padded_wrap)


def probe_imports(login: Login) -> ProbedCapabilities:
    """Test every algorithm on temporary session objects. Raises `TokenUnavailable` if the module was finalised."""
    imports: dict[WrappingAlgorithm, None] = {}
    passes_on: dict[WrappingAlgorithm, None] = {}
    padded: WrapMechanism | None = None
    for algorithm in WrappingAlgorithm:
        for way in PADDED_KEY_WRAPS if algorithm in HYBRID else (None,):
            if _works(login, "import", algorithm, way, _import):
                imports[algorithm], padded = None, way or padded
            if _works(login, "pass on", algorithm, way, _rewrap):
                passes_on[algorithm], padded = None, way or padded
    log.info("token_imports", imports=[a.value for a in imports], passes_on=[a.value for a in passes_on])
    return ProbedCapabilities(frozenset(imports), frozenset(passes_on), padded)


def _works(login: Login, what: str, algorithm: WrappingAlgorithm, padded: WrapMechanism | None, prove: _Prove) -> bool:
    try:
        with import_session(login.connection, padded) as session:
            prove(session, algorithm)
    except (CkrError, WrongAnswer) as error:
        if isinstance(error, CkrError) and error.rv == Ckr.CRYPTOKI_NOT_INITIALIZED:
            raise TokenUnavailable(str(error)) from error
        log.debug("token_import_unsupported", what=what, algorithm=algorithm.value, reason=str(error))
        return False
    return True


# --- known answers ----------------------------------------------------------------------------------


@cache
def _test_key() -> rsa.RSAPrivateKey:
    d = pow(_E, -1, lcm(_P - 1, _Q - 1))
    crt = (rsa.rsa_crt_dmp1(d, _P), rsa.rsa_crt_dmq1(d, _Q), rsa.rsa_crt_iqmp(_P, _Q))
    return rsa.RSAPrivateNumbers(_P, _Q, d, *crt, rsa.RSAPublicNumbers(_E, _P * _Q)).private_key()


def _oaep(digest: hashes.HashAlgorithm) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(digest), digest, None)


def _padding_of(algorithm: WrappingAlgorithm) -> padding.AsymmetricPadding:
    if algorithm is WrappingAlgorithm.RSAES_PKCS1_V1_5:
        return padding.PKCS1v15()
    return _oaep(hashes.SHA256() if algorithm.value.endswith("SHA_256") else _SHA_1)


def _wrapped(material: bytes, algorithm: WrappingAlgorithm, key: rsa.RSAPublicKey) -> bytes:
    """Wrap `material` in software, as a client does."""
    way = _padding_of(algorithm)
    if algorithm not in HYBRID:
        return key.encrypt(material, way)
    return key.encrypt(_KEK, way) + keywrap.aes_key_wrap_with_padding(_KEK, material)


def _cmac(material: bytes) -> bytes:
    mac = CMAC(AES(material))
    mac.update(_MARK)
    return mac.finalize()


# --- probes -----------------------------------------------------------------------------------------


def _wrapping_key(session: ImportSession) -> tuple[int, rsa.RSAPublicKey]:
    """Return a private key in the token and its public half: the published pair, or a new one if that is refused."""
    numbers = _test_key().private_numbers()
    components = {
        Attribute.MODULUS: numbers.public_numbers.n,
        Attribute.PUBLIC_EXPONENT: numbers.public_numbers.e,
        Attribute.PRIVATE_EXPONENT: numbers.d,
        Attribute.PRIME_1: numbers.p,
        Attribute.PRIME_2: numbers.q,
        Attribute.EXPONENT_1: numbers.dmp1,
        Attribute.EXPONENT_2: numbers.dmq1,
        Attribute.COEFFICIENT: numbers.iqmp,
    }
    public, private = wrapping_pair(_BITS)
    template: dict[int, Value] = {
        Attribute.CLASS: int(ObjectClass.PRIVATE_KEY),
        Attribute.KEY_TYPE: int(KeyType.RSA),
        **private,
        **{kind: value.to_bytes((value.bit_length() + 7) // 8, "big") for kind, value in components.items()},
    }
    raw, handle = session.raw, session.session.handle
    try:
        return session.kept(raw.create(handle, template)), _test_key().public_key()
    except CkrError as error:
        if error.error_class in (ErrorClass.SESSION, ErrorClass.LOGIN):
            raise
        log.info("token_refuses_known_keys", reason=str(error))
    key, half = (session.kept(made) for made in raw.generate_pair(handle, _RSA_PAIR, public, private))
    shown = load_der_public_key(public_key_of(raw, handle, half, _BITS))
    if not isinstance(shown, rsa.RSAPublicKey):
        raise WrongAnswer
    return key, shown


def _import(session: ImportSession, algorithm: WrappingAlgorithm) -> None:
    """Check that material survives unwrapping, rewrapping and unwrapping, and that invalid blobs are detected."""
    key, public = _wrapping_key(session)
    good = session.verify(key, algorithm, _wrapped(_MATERIAL, algorithm, public), _MARK)
    expect((good.failure, good.fingerprint), (None, _cmac(_MATERIAL)))
    raw, handle = session.raw, session.session.handle
    again = session.kept(raw.unwrap(handle, KEY_WRAP, good.kek, good.wrapped, TO_PROVE))
    expect(raw.sign(handle, again, int(Mechanism.AES_CMAC), _MARK), _cmac(_MATERIAL))
    for length in _WRONG_LENGTHS:
        wrong = session.verify(key, algorithm, _wrapped((2 * _MATERIAL)[:length], algorithm, public), _MARK)
        expect(wrong.failure is not None, True)
    if algorithm.has_integrity:
        blob = _wrapped(_MATERIAL, algorithm, public)
        changed = blob[:-1] + bytes([blob[-1] ^ 1])
        expect(isinstance(session.verify(key, algorithm, changed, _MARK).failure, UnwrapFailed), True)


def _rewrap(session: ImportSession, algorithm: WrappingAlgorithm) -> None:
    """Check that the material wrapped for another token is the material that was unwrapped."""
    key, public = _wrapping_key(session)
    recipient = _test_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    blob, failure = session.rewrap_for(key, algorithm, _wrapped(_MATERIAL, algorithm, public), recipient)
    expect(failure, None)
    try:
        received = _test_key().decrypt(blob, _padding_of(TRANSPORT))
    except ValueError as error:
        raise WrongAnswer from error
    expect(received, _MATERIAL)
