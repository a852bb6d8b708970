"""Proof of imported RSA, ECC and HMAC material: what it is, and the public key of a pair.

The material is unwrapped into a carrier, a session object with the roles that the proof needs. If it passes, the same
wrapped value is unwrapped again into the final object.

The attributes of a carrier alone prove nothing. SoftHSM shows CKA_VALUE_LEN 0 after C_UnwrapKey, and NSS takes the key
type from the PKCS #8 structure, whatever the template says. So a private key signs a message, and the signature is
verified with the public key in the process. For RSA, the token shows the public key as attributes of the private one.
For ECC it does not: ECDH with the base point gives the x coordinate, and the signature decides between the two points
that have it.

The length of a secret is CKA_VALUE_LEN if the token shows it. Otherwise it is the longest that an RSA public key can
wrap: C_WrapKey without a buffer answers with a length or CKR_KEY_SIZE_RANGE, and gives no data out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, ObjectClass

from kmsd.adapters.pkcs11 import key_operations, signature_schemes
from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.imported_roles import IMPORTED_MACS, IMPORTED_PAIRS
from kmsd.adapters.pkcs11.key_import import NOT_OF_THE_KEY
from kmsd.adapters.pkcs11.key_pairs import CURVES, mac_algorithm_of
from kmsd.adapters.pkcs11.public_keys import ECC_CURVES
from kmsd.adapters.pkcs11.return_codes import CkrError
from kmsd.adapters.pkcs11.templates import PRIVATE_ROLES, PUBLIC_ROLES, only, transfer_template
from kmsd.adapters.pkcs11.wrap_mechanisms import RSA_STEP, TRANSPORT, modulus_and_exponent, spki_of_rsa
from kmsd.custody.public_keys import is_valid_signature
from kmsd.domain.key_import import TRANSPORT_OF_KEYS
from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, RSA_BITS, KeySpec, KeyUsage, SigningAlgorithm
from kmsd.ports import ImportedKey, TokenError, UnsuitableMaterial, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.objects import Objects
    from kmsd.adapters.pkcs11.wrap_mechanisms import WrappedValue
    from kmsd.domain.key_import import KeyKind

A = Attribute
IMPORTABLE = (*RSA_BITS, *(spec for spec in CURVES if spec is not KeySpec.ECC_NIST_EDWARDS25519), *HMAC_BITS)
"""Specs whose material can be proven. An Ed25519 key has no ECDH that would give its public key."""
FINGERPRINT_OF_SECRET = 16
"""Bytes of a MAC that are its fingerprint: too few to be presented as a MAC."""
_SECRET = transfer_template(KeyType.GENERIC_SECRET, (A.SIGN,))
_INERT_AND_EXTRACTABLE = transfer_template(KeyType.GENERIC_SECRET)
_INERT: dict[int, Value] = {**_INERT_AND_EXTRACTABLE, A.EXTRACTABLE: False}
_OAEP_OVERHEAD = 2 + 2 * 20
"""Bytes that RSAES-OAEP with SHA-1 adds: k - mLen = 2 hLen + 2 (RFC 8017 section 7.1.1)."""
_POINT_SIGNS = (b"\x02", b"\x03")
"""Head of a compressed point with an even and with an odd y coordinate (SEC 1 section 2.3.3)."""
_OCTET_STRING = 4


def private_template(key_type: KeyType, roles: Iterable[Attribute], *, extractable: bool = False) -> dict[int, Value]:
    """Return the template of a private key as a session object."""
    return {
        A.CLASS: int(ObjectClass.PRIVATE_KEY),
        A.KEY_TYPE: int(key_type),
        A.TOKEN: False,
        A.PRIVATE: True,
        A.SENSITIVE: True,
        A.EXTRACTABLE: extractable,
        **{int(kind): value for kind, value in only(roles, PRIVATE_ROLES).items()},
    }


def prove(session: ImportSession, wrapped: WrappedValue, spec: KeySpec, mark: bytes) -> ImportedKey:
    """Unwrap material into a carrier, and return its fingerprint for `mark`, and its public key.

    Raises `UnwrapFailed`, and `UnsuitableMaterial` if the wrapped value is intact but no key of this spec.
    """
    if spec in HMAC_BITS:
        return _proven_secret(session, _carrier(session, wrapped, spec, _SECRET), spec, mark)
    is_rsa = spec in RSA_BITS
    roles = (A.SIGN,) if is_rsa else (A.SIGN, A.DERIVE)
    key_type = KeyType.RSA if is_rsa else KeyType.EC
    carrier = _carrier(session, wrapped, spec, private_template(key_type, roles))
    candidates = _rsa_public_key(session, carrier, spec) if is_rsa else _points(session, carrier, spec)
    public = _signer(session, carrier, candidates, spec, mark)
    public_key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ImportedKey(hashlib.sha256(mark + public_key).digest(), public_key)


def store(
    session: ImportSession,
    objects: Objects,
    wrapped: WrappedValue,
    kind: KeyKind,
    *,
    object_id: bytes,
    public_key: bytes,
) -> None:
    """Create the objects of proven material, for their usage alone. Raises `TokenError`, and then leaves none."""
    if kind[0] in HMAC_BITS:
        objects.unwrap(session.session, object_id, IMPORTED_MACS[kind[0]], wrapped)
    else:
        objects.unwrap_pair(session.session, object_id, IMPORTED_PAIRS[kind], wrapped, public_attributes(public_key))


def rewrap(session: ImportSession, wrapped: WrappedValue, spec: KeySpec, transport_key: bytes) -> bytes:
    """Unwrap material, and wrap it by `TRANSPORT_OF_KEYS` under another token's transport key.

    Nothing is proven: the other token does that. NSS takes secrets of up to 256 bytes, and longer material as a private
    key. Raises `UnwrapFailed`.
    """
    templates = (_INERT_AND_EXTRACTABLE, private_template(KeyType.RSA, (), extractable=True))
    attempts = (session.unwrap(wrapped, one) for one in (reversed(templates) if spec in RSA_BITS else templates))
    found = next((handle for handle in attempts if handle is not None), None)
    if found is None or session.padded_wrap is None:
        raise UnwrapFailed("the import token does not unwrap it")
    kek = session.generate(transfer_template(KeyType.AES, (A.WRAP,)))
    recipient = session.recipient(transport_key)
    handle = session.session.handle
    wrapped_kek = session.raw.wrap(handle, RSA_STEP[TRANSPORT_OF_KEYS], recipient, kek)
    return wrapped_kek + session.raw.wrap(handle, session.padded_wrap, kek, found)


# --- secrets ----------------------------------------------------------------------------------------


def _proven_secret(session: ImportSession, carrier: int, spec: KeySpec, mark: bytes) -> ImportedKey:
    if not _has_length(session, carrier, HMAC_BITS[spec] // 8):
        raise _unsuitable(spec)
    try:
        mac = key_operations.mac(session.raw, session.session.handle, carrier, mac_algorithm_of(spec), mark)
    except CkrError as error:
        raise _of_the_key(error, spec) from error
    return ImportedKey(mac[:FINGERPRINT_OF_SECRET], b"")


def _has_length(session: ImportSession, secret: int, length: int) -> bool:
    shown = number(session.raw.attributes(session.session.handle, secret, (A.VALUE_LEN,)), A.VALUE_LEN)
    if shown:
        return shown == length
    return _fits(session, secret, length) and not _fits(session, secret, length - 1)


def _fits(session: ImportSession, secret: int, length: int) -> bool:
    """Return whether a secret has at most `length` bytes: whether an RSA key of that capacity can wrap it."""
    size = length + _OAEP_OVERHEAD
    # The modulus needs no private key: nothing is unwrapped with it, and no wrapped value leaves the token.
    modulus = (1 << (8 * size - 1) | 1).to_bytes(size, "big")
    template: dict[int, Value] = {
        A.CLASS: int(ObjectClass.PUBLIC_KEY),
        A.KEY_TYPE: int(KeyType.RSA),
        A.TOKEN: False,
        A.PRIVATE: False,
        A.MODULUS: modulus,
        A.PUBLIC_EXPONENT: b"\x01\x00\x01",
        **{int(kind): value for kind, value in only((A.WRAP,), PUBLIC_ROLES).items()},
    }
    handle = session.session.handle
    try:
        public = session.kept(session.raw.create(handle, template))
        session.raw.wrapped_length(handle, RSA_STEP[TRANSPORT], public, secret)
    except CkrError as error:
        if error.error_class in NOT_OF_THE_KEY:
            raise
        return False
    return True


# --- pairs ------------------------------------------------------------------------------------------


def _rsa_public_key(session: ImportSession, carrier: int, spec: KeySpec) -> list[rsa.RSAPublicKey]:
    """Return the public key that an RSA private key shows; an empty list if it is none of this spec."""
    kinds = (A.KEY_TYPE, A.MODULUS, A.PUBLIC_EXPONENT)
    shown = session.raw.attributes(session.session.handle, carrier, kinds)
    modulus = shown.get(A.MODULUS, b"")
    if number(shown, A.KEY_TYPE) != KeyType.RSA or int.from_bytes(modulus, "big").bit_length() != RSA_BITS[spec]:
        return []
    try:
        public = load_der_public_key(spki_of_rsa(modulus, shown.get(A.PUBLIC_EXPONENT, b"")))
    except TokenError:
        return []
    return [public] if isinstance(public, rsa.RSAPublicKey) else []


def _points(session: ImportSession, carrier: int, spec: KeySpec) -> list[ec.EllipticCurvePublicKey]:
    """Return the two points that may be the public key; an empty list for a key that is not on the spec's curve."""
    handle, curve = session.session.handle, ECC_CURVES[CURVES[spec]]
    shown = session.raw.attributes(handle, carrier, (A.KEY_TYPE, A.EC_PARAMS))
    if number(shown, A.KEY_TYPE) != KeyType.EC or shown.get(A.EC_PARAMS) != CURVES[spec]:
        return []
    base = ec.derive_private_key(1, curve).public_key()
    encoded = base.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    try:
        x = key_operations.agree(session.raw, handle, carrier, encoded)
        return [ec.EllipticCurvePublicKey.from_encoded_point(curve, sign + x) for sign in _POINT_SIGNS]
    except CkrError as error:
        raise _of_the_key(error, spec) from error
    except ValueError:
        return []


def _signer(
    session: ImportSession,
    carrier: int,
    candidates: list[rsa.RSAPublicKey] | list[ec.EllipticCurvePublicKey],
    spec: KeySpec,
    message: bytes,
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """Return the candidate under which a signature by the carrier is valid. Raises `UnsuitableMaterial`."""
    if not candidates:
        raise _unsuitable(spec)
    algorithm = SigningAlgorithm(ALGORITHMS[spec][KeyUsage.SIGN_VERIFY][0])
    digest = signature_schemes.digest_of(algorithm, message)
    try:
        signature = signature_schemes.sign(
            session.raw, session.session.handle, carrier, algorithm, digest, is_digest=True
        )
    except CkrError as error:
        raise _of_the_key(error, spec) from error
    for candidate in candidates:
        if is_valid_signature(candidate, algorithm, digest, signature, is_digest=True):
            return candidate
    raise _unsuitable(spec)


def public_attributes(public_key: bytes) -> dict[Attribute, Value]:
    """Return the attributes that determine a public key object."""
    public = load_der_public_key(public_key)
    if isinstance(public, rsa.RSAPublicKey):
        modulus, exponent = modulus_and_exponent(public_key)
        return {A.MODULUS: modulus, A.PUBLIC_EXPONENT: exponent}
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError("neither an RSA nor an ECC public key")
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    length = bytes((len(point),)) if len(point) < 1 << 7 else bytes((0x81, len(point)))
    parameters = next(name for name, curve in ECC_CURVES.items() if curve.name == public.curve.name)
    return {A.EC_PARAMS: parameters, A.EC_POINT: bytes((_OCTET_STRING,)) + length + point}


# --- both -------------------------------------------------------------------------------------------


def _carrier(session: ImportSession, wrapped: WrappedValue, spec: KeySpec, template: dict[int, Value]) -> int:
    """Unwrap material into a session object. Tells a value that is not intact from one that is no such key."""
    carrier = session.unwrap(wrapped, template)
    if carrier is not None:
        return carrier
    if session.unwrap(wrapped, _INERT) is None:
        raise UnwrapFailed("the token does not unwrap it")
    raise _unsuitable(spec)


def _of_the_key(error: CkrError, spec: KeySpec) -> UnsuitableMaterial | CkrError:
    """Return what an error of an operation with a carrier means."""
    return error if error.error_class in NOT_OF_THE_KEY else _unsuitable(spec)


def _unsuitable(spec: KeySpec) -> UnsuitableMaterial:
    if spec in HMAC_BITS:
        return UnsuitableMaterial(f"The key material of a key with KeySpec {spec} must have {HMAC_BITS[spec]} bits.")
    return UnsuitableMaterial(f"The key material must be a private key for KeySpec {spec}, DER-encoded PKCS #8.")
