"""Self-tests of the import of RSA, ECC and HMAC material: published keys take the path of an import.

A token imports a spec if it proves the right key, and tells it from a key of another kind or length and from a changed
blob. RSA is tested with 2048 bits for all lengths: finding a longer pair takes seconds.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple

import structlog
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from msgspec.structs import replace
from pkcs11 import Attribute

from kmsd.adapters.pkcs11.cryptoki_types import flag
from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.import_self_tests import padding_of, wrapped_in_software, wrapping_key_of_test
from kmsd.adapters.pkcs11.imported_keys import FINGERPRINT_OF_SECRET, IMPORTABLE, prove, public_attributes, rewrap
from kmsd.adapters.pkcs11.imported_roles import IMPORTED_MACS, IMPORTED_PAIRS
from kmsd.adapters.pkcs11.key_import import import_session
from kmsd.adapters.pkcs11.key_pairs import CURVES, mac_algorithm_of
from kmsd.adapters.pkcs11.public_keys import ECC_CURVES
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.rsa_test_pair import published_key
from kmsd.domain.key_import import TRANSPORT_OF_KEYS, WrappingAlgorithm
from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, RSA_BITS, KeySpec
from kmsd.ports import ImportedKey, TokenError, TokenUnavailable, UnsuitableMaterial, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.import_self_tests import ProbedCapabilities
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.templates import ObjectProfile
    from kmsd.adapters.pkcs11.wrap_mechanisms import WrappedValue

    _Test = Callable[[ImportSession, "_WrappingKey", WrappingAlgorithm, KeySpec], None]

log = structlog.get_logger(__name__)

_MARK = b"probe of imported keys"
_SCALAR = int.from_bytes(hashlib.sha256(_MARK).digest(), "big") >> 8
"""Private key of the ECC self-tests, less than the order of each curve. Not a secret: it is published here."""
_FAMILIES = (tuple(RSA_BITS), *((spec,) for spec in IMPORTABLE if spec not in RSA_BITS))
"""Specs by the test that they share, which is that of the first."""


class _WrappingKey(NamedTuple):
    handle: int
    public: rsa.RSAPublicKey


def probe_specs(login: Login, proven: ProbedCapabilities) -> ProbedCapabilities:
    """Return what was proven, and test the specs that are not. Raises `TokenUnavailable`."""
    try:
        # One wrapping key for all: a token that refuses plaintext keys generates it, which takes HSMs seconds.
        with import_session(login.connection, proven.padded_wrap) as session:
            wrapping_key = _WrappingKey(*wrapping_key_of_test(session))
            specs, passes_on = (
                frozenset(
                    spec
                    for family in _FAMILIES
                    if family[0] in known or _works(session, wrapping_key, family[0], algorithms, test)
                    for spec in family
                )
                for known, algorithms, test in (
                    (proven.specs, proven.imports, _import),
                    (proven.passes_on_specs, proven.passes_on, _pass_on),
                )
            )
    except (CkrError, WrongAnswer, TokenError) as error:
        _raise_if_gone(error)
        log.info("token_key_imports", reason=str(error))
        return proven
    log.info("token_key_imports", specs=sorted(map(str, specs)), passes_on=sorted(map(str, passes_on)))
    return replace(proven, specs=specs, passes_on_specs=passes_on)


def _works(
    session: ImportSession,
    wrapping_key: _WrappingKey,
    spec: KeySpec,
    algorithms: frozenset[WrappingAlgorithm],
    test: _Test,
) -> bool:
    algorithm = _way_of_test(algorithms, spec)
    if algorithm is None:
        return False
    try:
        test(session, wrapping_key, algorithm, spec)
    except (CkrError, WrongAnswer, TokenError) as error:
        _raise_if_gone(error)
        log.debug("token_key_import_unsupported", spec=spec, test=test.__name__, reason=str(error))
        return False
    return True


def _raise_if_gone(error: Exception) -> None:
    gone = isinstance(error, CkrError) and error.rv == Ckr.CRYPTOKI_NOT_INITIALIZED
    if gone or isinstance(error, TokenUnavailable):
        raise TokenUnavailable(str(error)) from error


def _way_of_test(algorithms: frozenset[WrappingAlgorithm], spec: KeySpec) -> WrappingAlgorithm | None:
    """Return a wrapping algorithm that takes long material, or else one that takes this spec's; None if none does."""
    usable = [one for one in WrappingAlgorithm if one in algorithms and one.has_integrity]
    hybrid = next((one for one in usable if one.is_hybrid), None)
    direct = None if spec in RSA_BITS or spec is KeySpec.ECC_NIST_P521 else next(iter(usable), None)
    return hybrid or direct


# --- tests ------------------------------------------------------------------------------------------


def _import(session: ImportSession, wrapping_key: _WrappingKey, algorithm: WrappingAlgorithm, spec: KeySpec) -> None:
    key, public = wrapping_key

    def proven(blob: bytes) -> ImportedKey:
        return prove(session, session.wrapped_value(key, algorithm, blob), spec, _MARK)

    blob = wrapped_in_software(_material(spec), algorithm, public)
    found = proven(blob)
    expect(found, _expected(spec))
    for role in _roles(spec):
        _expect_role(session, session.wrapped_value(key, algorithm, blob), role)
    if found.public_key:
        _create_public_halves(session, spec, found.public_key)
    for wrong in _unsuitable(spec):
        _expect_refusal(UnsuitableMaterial, proven, wrapped_in_software(wrong, algorithm, public))
    _expect_refusal(UnwrapFailed, proven, blob[:-1] + bytes([blob[-1] ^ 1]))


def _expect_role(session: ImportSession, wrapped: WrappedValue, role: ObjectProfile) -> None:
    """Check that the final object has its role alone: NSS gives RSA keys further ones."""
    found = session.unwrap(wrapped, _as_session_object(role))
    if found is None:
        raise WrongAnswer
    shown = session.raw.attributes(session.session.handle, found, role.template)
    for kind, value in role.template.items():
        if kind != Attribute.TOKEN and kind in shown:
            expect(flag(shown, kind), value)


def _create_public_halves(session: ImportSession, spec: KeySpec, public_key: bytes) -> None:
    for usage in ALGORITHMS[spec]:
        template = _as_session_object(IMPORTED_PAIRS[spec, usage].public)
        shown = {int(kind): value for kind, value in public_attributes(public_key).items()}
        session.kept(session.raw.create(session.session.handle, template | shown))


def _expect_refusal(kind: type[TokenError], proven: Callable[[bytes], ImportedKey], blob: bytes) -> None:
    try:
        proven(blob)
    except kind:
        return
    raise WrongAnswer


def _pass_on(session: ImportSession, wrapping_key: _WrappingKey, algorithm: WrappingAlgorithm, spec: KeySpec) -> None:
    key, public = wrapping_key
    recipient = published_key()
    transport_key = recipient.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    material = session.wrapped_value(key, algorithm, wrapped_in_software(_material(spec), algorithm, public))
    blob = rewrap(session, material, spec, transport_key)
    size = recipient.key_size // 8
    try:
        kek = recipient.decrypt(blob[:size], padding_of(TRANSPORT_OF_KEYS))
        received = keywrap.aes_key_unwrap_with_padding(kek, blob[size:])
        if spec in RSA_BITS:
            # A token may encode the structure differently.
            received = _encoded(load_der_private_key(received, None))  # type: ignore[arg-type]  # compared below
    except (ValueError, keywrap.InvalidUnwrap) as error:
        raise WrongAnswer from error
    expect(received, _material(spec))


# --- known keys -------------------------------------------------------------------------------------


def _private_key(spec: KeySpec) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    return published_key() if spec in RSA_BITS else ec.derive_private_key(_SCALAR, ECC_CURVES[CURVES[spec]])


def _encoded(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _material(spec: KeySpec) -> bytes:
    return bytes(range(HMAC_BITS[spec] // 8)) if spec in HMAC_BITS else _encoded(_private_key(spec))


def _unsuitable(spec: KeySpec) -> list[bytes]:
    """Return material that is intact, and no key of the spec."""
    if spec in HMAC_BITS:
        length = HMAC_BITS[spec] // 8
        return [bytes(range(length - 1)), bytes(range(length)) + b"\0"]
    other = KeySpec.ECC_NIST_P384 if spec is KeySpec.ECC_NIST_P256 else KeySpec.ECC_NIST_P256
    return [bytes(32), _material(other)]


def _expected(spec: KeySpec) -> ImportedKey:
    if spec in HMAC_BITS:
        name = mac_algorithm_of(spec).removeprefix("HMAC_").replace("_", "")
        return ImportedKey(hmac.digest(_material(spec), _MARK, name)[:FINGERPRINT_OF_SECRET], b"")
    shown = _private_key(spec).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ImportedKey(hashlib.sha256(_MARK + shown).digest(), shown)


def _roles(spec: KeySpec) -> list[ObjectProfile]:
    """Return the roles of the final secret, or of the private halves for all usages."""
    if spec in HMAC_BITS:
        return [IMPORTED_MACS[spec]]
    return [IMPORTED_PAIRS[spec, usage].private for usage in ALGORITHMS[spec]]


def _as_session_object(role: ObjectProfile) -> dict[int, Value]:
    template = {**role.template, Attribute.TOKEN: False}
    # CKA_MODIFIABLE last, as in `Objects`.
    template[Attribute.MODIFIABLE] = template.pop(Attribute.MODIFIABLE)
    names: dict[int, Value] = {Attribute.CLASS: int(role.object_class), Attribute.KEY_TYPE: int(role.key_type)}
    return names | {int(kind): value for kind, value in template.items()}
