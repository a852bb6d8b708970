"""Operations with private keys that are no signatures, each on one session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import Attribute, KeyType, Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import CkEcdhParams
from kmsd.adapters.pkcs11.key_pairs import MAC_MECHANISMS
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.adapters.pkcs11.wrap_mechanisms import OAEP
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.domain.key_spec import EncryptionAlgorithm, MacAlgorithm

_CKD_NULL = 1
_LONGEST_MAC = 64
_NUMBER_OUT_OF_RANGE = (Ckr.ARGUMENTS_BAD, Ckr.KEY_SIZE_RANGE)
"""Codes for a ciphertext that is a number not below the modulus; NSS returns the first."""
ML_KEM_SECRET_LENGTH = 32
"""Bytes of a shared secret (FIPS 203, table 3)."""


def mac(raw: RawModule, session: int, key: int, algorithm: MacAlgorithm, message: bytes) -> bytes:
    """Return the whole HMAC of a message. Raises `CkrError`."""
    return raw.sign(session, key, MAC_MECHANISMS[algorithm], message, None, _LONGEST_MAC)


def decrypt_rsa(raw: RawModule, session: int, key: int, algorithm: EncryptionAlgorithm, ciphertext: bytes) -> bytes:
    """Decrypt by RSAES-OAEP. Raises `CkrError`, of class `DATA` or `SUSPECT` for every fault of the ciphertext."""
    try:
        return raw.decrypt(session, key, OAEP[algorithm], ciphertext)
    except CkrError as error:
        if error.function != "C_Decrypt" or error.rv not in _NUMBER_OUT_OF_RANGE:
            raise
        raise CkrError(Ckr.ENCRYPTED_DATA_INVALID, error.function) from error


def agree(raw: RawModule, session: int, key: int, peer_point: bytes) -> bytes:
    """Return the x coordinate of the product of the private key and an uncompressed point.

    Raises `CkrError`, and `TokenError` for a secret of a wrong length.
    """
    length = len(peer_point) // 2
    parameter = CkEcdhParams(_CKD_NULL, 0, None, len(peer_point), peer_point)
    handle = raw.derive(session, key, int(Mechanism.ECDH1_DERIVE), parameter, _secret(length))
    return _taken(raw, session, handle, length)


def encapsulate(raw: RawModule, session: int, public: int) -> tuple[bytes, bytes]:
    """Return a fresh secret and its ciphertext by ML-KEM. Raises as `agree`."""
    ciphertext, handle = raw.encapsulation.encapsulate(session, public, _secret(ML_KEM_SECRET_LENGTH))
    return _taken(raw, session, handle, ML_KEM_SECRET_LENGTH), ciphertext


def decapsulate(raw: RawModule, session: int, key: int, ciphertext: bytes) -> bytes:
    """Return the secret of an ML-KEM ciphertext. Raises as `agree`."""
    handle = raw.encapsulation.decapsulate(session, key, ciphertext, _secret(ML_KEM_SECRET_LENGTH))
    return _taken(raw, session, handle, ML_KEM_SECRET_LENGTH)


def _secret(length: int) -> dict[int, Value]:
    """Return the template of a shared secret: a session object that is read and destroyed at once."""
    return session_key(KeyType.GENERIC_SECRET, length, (), readable=True)


def _taken(raw: RawModule, session: int, handle: int, length: int) -> bytes:
    """Return the value of a shared secret, and destroy its object."""
    try:
        value = raw.attributes(session, handle, (Attribute.VALUE,)).get(Attribute.VALUE, b"")
    finally:
        raw.destroy(session, handle)
    if len(value) != length:
        raise TokenError(f"the token made a secret of {len(value)} bytes, not {length}")
    return value
