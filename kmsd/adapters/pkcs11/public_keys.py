"""Public halves of key pairs as DER SubjectPublicKeyInfo, built from the attributes that the token shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.key_pairs import CURVES, EDWARDS25519_NAME
from kmsd.adapters.pkcs11.wrap_mechanisms import spki_of_rsa
from kmsd.domain.key_spec import KeySpec
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

A = Attribute
PUBLIC_KEY_ATTRIBUTES = (
    *(A.KEY_TYPE, A.MODULUS, A.PUBLIC_EXPONENT, A.EC_PARAMS, A.EC_POINT),
    *(A.PARAMETER_SET, A.VALUE),
)
"""Attributes of a public key object that `spki_of` reads."""
ECC_CURVES: Mapping[bytes, ec.EllipticCurve] = {
    CURVES[KeySpec.ECC_NIST_P256]: ec.SECP256R1(),
    CURVES[KeySpec.ECC_NIST_P384]: ec.SECP384R1(),
    CURVES[KeySpec.ECC_NIST_P521]: ec.SECP521R1(),
    CURVES[KeySpec.ECC_SECG_P256K1]: ec.SECP256K1(),
}
"""Curve by CKA_EC_PARAMS."""
_EDWARDS25519 = (CURVES[KeySpec.ECC_NIST_EDWARDS25519], EDWARDS25519_NAME)
_ED25519_LENGTH = 32
_OCTET_STRING = 4
_LONG_LENGTH = 0x81
_FROM_RAW: Mapping[tuple[int, int], Callable[[bytes], PublicKeyTypes]] = {
    (KeyType.ML_DSA, 1): mldsa.MLDSA44PublicKey.from_public_bytes,
    (KeyType.ML_DSA, 2): mldsa.MLDSA65PublicKey.from_public_bytes,
    (KeyType.ML_DSA, 3): mldsa.MLDSA87PublicKey.from_public_bytes,
    (KeyType.ML_KEM, 2): mlkem.MLKEM768PublicKey.from_public_bytes,
    (KeyType.ML_KEM, 3): mlkem.MLKEM1024PublicKey.from_public_bytes,
}
"""Constructor by key type and CKA_PARAMETER_SET. `cryptography` has no ML-KEM-512."""
_ML_KEM_512 = (KeyType.ML_KEM, 1)
_ML_KEM_512_LENGTH = 800
ML_KEM_512_HEAD = bytes.fromhex("30820332300b06096086480165030404010382032100")
"""SEQUENCE { SEQUENCE { id-alg-ml-kem-512 }, BIT STRING of 800 bytes } up to the key (RFC 9935)."""


def spki_of(values: Mapping[int, bytes]) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a public key's `PUBLIC_KEY_ATTRIBUTES`. Raises `TokenError`."""
    try:
        return _spki_of(values)
    except (ValueError, KeyError) as error:
        raise TokenError(f"the token shows no public key of a known kind: {error}") from error


def _spki_of(values: Mapping[int, bytes]) -> bytes:
    key_type = number(values, A.KEY_TYPE)
    if key_type == KeyType.RSA:
        return spki_of_rsa(values[A.MODULUS], values[A.PUBLIC_EXPONENT])
    if key_type in (KeyType.EC, KeyType.EC_EDWARDS):
        return spki_of_point(values[A.EC_PARAMS], values[A.EC_POINT])
    kind = key_type or 0, number(values, A.PARAMETER_SET) or 0
    if kind == _ML_KEM_512:
        if len(values[A.VALUE]) != _ML_KEM_512_LENGTH:
            raise ValueError("an ML-KEM-512 key of a wrong length")
        return ML_KEM_512_HEAD + values[A.VALUE]
    return _encoded(_FROM_RAW[kind](values[A.VALUE]))


def spki_of_point(curve: bytes, ec_point: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of CKA_EC_PARAMS and CKA_EC_POINT. Raises ValueError, KeyError.

    CKA_EC_POINT is the "DER-encoding of ANSI X9.62 ECPoint value Q" (PKCS#11 v2.40 section 2.3.3), an OCTET STRING.
    Some modules return the point without it.
    """
    if curve in _EDWARDS25519:
        return _encoded(ed25519.Ed25519PublicKey.from_public_bytes(_bare(ec_point, _ED25519_LENGTH)))
    known = ECC_CURVES[curve]
    length = 1 + 2 * ((known.key_size + 7) // 8)
    return _encoded(ec.EllipticCurvePublicKey.from_encoded_point(known, _bare(ec_point, length)))


def _bare(ec_point: bytes, length: int) -> bytes:
    """Return the point without OCTET STRING. Raises ValueError unless it has `length` bytes."""
    short = length < 1 << 7
    head = bytes((_OCTET_STRING, length)) if short else bytes((_OCTET_STRING, _LONG_LENGTH, length))
    point = ec_point if len(ec_point) == length else ec_point.removeprefix(head)
    if len(point) != length:
        raise ValueError(f"CKA_EC_POINT has {len(ec_point)} bytes")
    return point


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
