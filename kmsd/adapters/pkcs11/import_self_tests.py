"""Self-tests of the wrapping algorithms: a known answer for each.

A published RSA key and published material take the path of an import: wrapped in software, unwrapped in the token and
verified there. Material rewrapped for another token is unwrapped in software. Material whose length is not 256 bits
must be detected. The mechanism list alone proves nothing: SoftHSM 2.6.1 lists OAEP, but refuses it with SHA-256.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Mechanism

from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.imported_keys import IMPORTABLE
from kmsd.adapters.pkcs11.key_import import LENGTH, TO_PROVE, import_session
from kmsd.adapters.pkcs11.key_pairs import wrapping_pair
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.rsa_test_pair import TEST_BITS, published_key, rsa_test_pair
from kmsd.adapters.pkcs11.wrap_mechanisms import HYBRID, KEY_WRAP, PADDED_KEY_WRAPS, TRANSPORT
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.ports import TokenUnavailable, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.cryptoki_types import WrapMechanism
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.domain.key_spec import KeySpec

    _Prove = Callable[[ImportSession, WrappingAlgorithm], None]

log = structlog.get_logger(__name__)

_MATERIAL = bytes(range(LENGTH))
_KEK = bytes(range(LENGTH, 2 * LENGTH))
_MARK = b"probe of imports"
_WRONG_LENGTHS = (24, 31, 33, 40)
_SHA_1 = hashes.SHA1()  # noqa: S303 (as the API has it)


class ProbedCapabilities(msgspec.Struct, frozen=True):
    """Result of the self-tests."""

    imports: frozenset[WrappingAlgorithm]
    """Algorithms that the token can unwrap, verify and store."""
    passes_on: frozenset[WrappingAlgorithm]
    """Algorithms that the token can unwrap and rewrap for another token."""
    padded_wrap: WrapMechanism | None
    """Mechanism under which the token implements RFC 5649; None if it does not."""
    specs: frozenset[KeySpec] = frozenset()
    """RSA, ECC and HMAC specs whose material the token can unwrap, verify and store."""
    passes_on_specs: frozenset[KeySpec] = frozenset()
    """Those whose material it can unwrap and rewrap for another token."""

    @property
    def complete(self) -> bool:
        """True if every algorithm and spec works for both."""
        return len(self.imports) == len(self.passes_on) == len(WrappingAlgorithm) and (
            len(self.specs) == len(self.passes_on_specs) == len(IMPORTABLE)
        )

    def and_of(self, later: ProbedCapabilities) -> ProbedCapabilities:
        """Return the union of both results."""
        imports, passes_on = self.imports | later.imports, self.passes_on | later.passes_on
        specs, passes_on_specs = self.specs | later.specs, self.passes_on_specs | later.passes_on_specs
        padded_wrap = self.padded_wrap or later.padded_wrap
        return ProbedCapabilities(imports, passes_on, padded_wrap, specs, passes_on_specs)


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


def _oaep(digest: hashes.HashAlgorithm) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(digest), digest, None)


def padding_of(algorithm: WrappingAlgorithm) -> padding.AsymmetricPadding:
    """Return the padding of the RSA step."""
    if algorithm is WrappingAlgorithm.RSAES_PKCS1_V1_5:
        return padding.PKCS1v15()
    return _oaep(hashes.SHA256() if algorithm.value.endswith("SHA_256") else _SHA_1)


def wrapped_in_software(material: bytes, algorithm: WrappingAlgorithm, key: rsa.RSAPublicKey) -> bytes:
    """Wrap `material` in software, as a client does."""
    way = padding_of(algorithm)
    if algorithm not in HYBRID:
        return key.encrypt(material, way)
    return key.encrypt(_KEK, way) + keywrap.aes_key_wrap_with_padding(_KEK, material)


def _cmac(material: bytes) -> bytes:
    mac = CMAC(AES(material))
    mac.update(_MARK)
    return mac.finalize()


# --- probes -----------------------------------------------------------------------------------------


def wrapping_key_of_test(session: ImportSession) -> tuple[int, rsa.RSAPublicKey]:
    """Return a private key in the token and its public half."""
    key, half, public_key = rsa_test_pair(session.raw, session.session.handle, wrapping_pair(TEST_BITS))
    session.kept(key)
    if half:
        session.kept(half)
    shown = load_der_public_key(public_key)
    if not isinstance(shown, rsa.RSAPublicKey):
        raise WrongAnswer
    return key, shown


def _import(session: ImportSession, algorithm: WrappingAlgorithm) -> None:
    """Check that material survives unwrapping, rewrapping and unwrapping, and that invalid blobs are detected."""
    key, public = wrapping_key_of_test(session)
    good = session.verify(key, algorithm, wrapped_in_software(_MATERIAL, algorithm, public), _MARK)
    expect((good.failure, good.fingerprint), (None, _cmac(_MATERIAL)))
    raw, handle = session.raw, session.session.handle
    again = session.kept(raw.unwrap(handle, KEY_WRAP, good.kek, good.wrapped, TO_PROVE))
    expect(raw.sign(handle, again, int(Mechanism.AES_CMAC), _MARK), _cmac(_MATERIAL))
    for length in _WRONG_LENGTHS:
        wrong = session.verify(key, algorithm, wrapped_in_software((2 * _MATERIAL)[:length], algorithm, public), _MARK)
        expect(wrong.failure is not None, True)
    if algorithm.has_integrity:
        blob = wrapped_in_software(_MATERIAL, algorithm, public)
        changed = blob[:-1] + bytes([blob[-1] ^ 1])
        expect(isinstance(session.verify(key, algorithm, changed, _MARK).failure, UnwrapFailed), True)


def _rewrap(session: ImportSession, algorithm: WrappingAlgorithm) -> None:
    """Check that the material wrapped for another token is the material that was unwrapped."""
    key, public = wrapping_key_of_test(session)
    recipient = published_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    blob, failure = session.rewrap_for(key, algorithm, wrapped_in_software(_MATERIAL, algorithm, public), recipient)
    expect(failure, None)
    try:
        received = published_key().decrypt(blob, padding_of(TRANSPORT))
    except ValueError as error:
        raise WrongAnswer from error
    expect(received, _MATERIAL)
