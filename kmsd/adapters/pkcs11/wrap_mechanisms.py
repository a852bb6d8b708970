"""PKCS#11 mechanisms for the API's wrapping algorithms, and RSA public keys in DER."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import MGF, Attribute, Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import WrapMechanism
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.key_spec import EncryptionAlgorithm
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.cryptoki import RawModule


class WrappedValue(NamedTuple):
    """Arguments of C_UnwrapKey for key material."""

    way: WrapMechanism
    key: int
    """Handle of the key that unwraps it."""
    value: bytes
    is_whole: bool = True
    """False if it stands for a blob that is invalid for its length or its first part, and is unwrapped for the work."""


_OAEP_SHA_1 = WrapMechanism(int(Mechanism.RSA_PKCS_OAEP), (int(Mechanism.SHA_1), int(MGF.SHA1)))
_OAEP_SHA_256 = WrapMechanism(int(Mechanism.RSA_PKCS_OAEP), (int(Mechanism.SHA256), int(MGF.SHA256)))
OAEP: Mapping[EncryptionAlgorithm, WrapMechanism] = {
    EncryptionAlgorithm.RSAES_OAEP_SHA_1: _OAEP_SHA_1,
    EncryptionAlgorithm.RSAES_OAEP_SHA_256: _OAEP_SHA_256,
}
"""Mechanism that decrypts by each algorithm of RSA keys."""
RSA_STEP: Mapping[WrappingAlgorithm, WrapMechanism] = {
    WrappingAlgorithm.RSAES_PKCS1_V1_5: WrapMechanism(int(Mechanism.RSA_PKCS)),
    WrappingAlgorithm.RSAES_OAEP_SHA_1: _OAEP_SHA_1,
    WrappingAlgorithm.RSAES_OAEP_SHA_256: _OAEP_SHA_256,
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1: _OAEP_SHA_1,
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256: _OAEP_SHA_256,
}
"""Mechanism of the RSA step of each wrapping algorithm."""
HYBRID = frozenset(algorithm for algorithm in WrappingAlgorithm if algorithm.is_hybrid)
"""Algorithms in which the RSA key unwraps an AES key, and the AES key unwraps the material.

CKM_RSA_AES_KEY_WRAP does both at once, but neither SoftHSM 2.6.1 nor NSS 3.87 has it.
"""
TRANSPORT = WrappingAlgorithm.RSAES_OAEP_SHA_1
"""Wrapping algorithm between tokens: the only OAEP that SoftHSM 2.6.1 has. OAEP requires no property of its hash that
SHA-1 lacks (RFC 8017 section 7.1)."""
KEY_WRAP = WrapMechanism(int(Mechanism.AES_KEY_WRAP))
"""RFC 3394: its output is exactly 8 bytes longer than its input."""
PADDED_KEY_WRAPS = (
    WrapMechanism(int(Mechanism.AES_KEY_WRAP_KWP)),
    WrapMechanism(int(Mechanism.AES_KEY_WRAP_PAD)),
)
"""RFC 5649 has two mechanism numbers. SoftHSM implements it as the second, under which NSS has another padding."""


def spki_of_rsa(modulus: bytes, exponent: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of CKA_MODULUS and CKA_PUBLIC_EXPONENT. Raises `TokenError`."""
    try:
        numbers = RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
        return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise TokenError(f"the token shows no RSA public key: {error}") from error


def modulus_and_exponent(key_info: bytes) -> tuple[bytes, bytes]:
    """Return CKA_MODULUS and CKA_PUBLIC_EXPONENT of a DER SubjectPublicKeyInfo."""
    key = load_der_public_key(key_info)
    if not isinstance(key, RSAPublicKey):
        raise TypeError("not an RSA public key")
    numbers = key.public_numbers()
    return tuple(n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (numbers.n, numbers.e))  # type: ignore[return-value]  # two of them


def public_key_of(raw: RawModule, session: int, public: int, bits: int) -> bytes:
    """Return the DER SubjectPublicKeyInfo of an RSA key object, which must have `bits` bits. Raises `TokenError`."""
    shown = raw.attributes(session, public, (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
    modulus = shown.get(Attribute.MODULUS, b"")
    if int.from_bytes(modulus, "big").bit_length() != bits:
        raise TokenError(f"the token made an RSA key that has not {bits} bits")
    return spki_of_rsa(modulus, shown.get(Attribute.PUBLIC_EXPONENT, b""))
