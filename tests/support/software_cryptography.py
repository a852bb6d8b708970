"""The token's encryption in software, as an oracle."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute

from kmsd.adapters.pkcs11.xaes import double
from kmsd.domain.material import Algorithm

ROLES = {
    Algorithm.XAES_256_GCM: (Attribute.DERIVE,),
    Algorithm.AES_256_GCM: (Attribute.ENCRYPT, Attribute.DECRYPT),
    Algorithm.AES_256_GCM_IV16: (Attribute.ENCRYPT, Attribute.DECRYPT),
}


def aes(key: bytes, block: bytes) -> bytes:
    """AES-256 of whole blocks."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 (the construction is made of it)
    return encryptor.update(block) + encryptor.finalize()


def xor(left: bytes, right: bytes) -> bytes:
    """Byte by byte."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def message_key(key: bytes, prefix: bytes) -> bytes:
    """XAES-256-GCM's derived key, in software."""
    subkey = double(aes(key, bytes(16)))
    return b"".join(aes(key, xor(bytes((0, i, 0x58, 0)) + prefix, subkey)) for i in (1, 2))


def software_seal(key: bytes, algorithm: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """What the token should make of a nonce, by `cryptography`."""
    key, iv = _gcm_of(key, algorithm, nonce)
    return nonce + AESGCM(key).encrypt(iv, plaintext, aad)


def software_open(key: bytes, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
    """What the token sealed, opened by `cryptography`."""
    nonce, text = sealed[: algorithm.nonce_length], sealed[algorithm.nonce_length :]
    key, iv = _gcm_of(key, algorithm, nonce)
    return AESGCM(key).decrypt(iv, text, aad)


def _gcm_of(key: bytes, algorithm: Algorithm, nonce: bytes) -> tuple[bytes, bytes]:
    """The key and the nonce of AES-256-GCM."""
    if algorithm is Algorithm.XAES_256_GCM:
        return message_key(key, nonce[:12]), nonce[12:]
    return key, nonce
