"""RSAES-OAEP: encryption with the public key in the process, decryption with the private key in the token.

The ciphertext is that of RFC 8017 without header, as in AWS. So it names no key, and has no encryption context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kmsd.custody import public_keys
from kmsd.domain.key_spec import HASH_BYTES, RSA_BITS, hash_of
from kmsd.errors import InvalidCiphertextException, ValidationException
from kmsd.ports import NotAuthentic

if TYPE_CHECKING:
    from kmsd.domain.encryption_context import EncryptionContext
    from kmsd.domain.key import Key
    from kmsd.domain.key_spec import EncryptionAlgorithm
    from kmsd.domain.material import Material
    from kmsd.ports import Tokens


class RsaCiphertext(msgspec.Struct, frozen=True):
    """The ciphertext of an RSA key, and the algorithm that the request names for it."""

    algorithm: EncryptionAlgorithm
    content: bytes


def encrypt(
    key: Key, public_key: bytes, algorithm: EncryptionAlgorithm, plaintext: bytes, context: EncryptionContext
) -> bytes:
    """Encrypt up to k - 2 hLen - 2 bytes (RFC 8017 section 7.1.1). Raises ValidationException for more."""
    _refuse_context(context)
    name = hash_of(algorithm)
    most = RSA_BITS[key.spec] // 8 - 2 * HASH_BYTES[name] - 2
    if len(plaintext) > most:
        raise ValidationException(
            f"Algorithm {algorithm} and key spec {key.spec} cannot encrypt data larger than {most} bytes."
        )
    public = public_keys.load(public_key)
    if not isinstance(public, rsa.RSAPublicKey):
        raise TypeError("the material of an RSA key has no RSA public key")
    function = public_keys.HASHES[name]
    return public.encrypt(plaintext, padding.OAEP(padding.MGF1(function), function, None))


async def decrypt(
    tokens: Tokens, key: Key, material: Material, ciphertext: RsaCiphertext, context: EncryptionContext
) -> bytes:
    """Decrypt in the token. Raises InvalidCiphertextException, the same for every fault of the ciphertext."""
    _refuse_context(context)
    if len(ciphertext.content) != RSA_BITS[key.spec] // 8:
        raise InvalidCiphertextException(detail="the ciphertext does not have the length of the modulus")
    try:
        token = tokens.of(material)
        return await token.decrypt_rsa(material.reference, ciphertext.algorithm, ciphertext.content)
    except NotAuthentic as exc:
        raise InvalidCiphertextException(detail="the token did not decrypt it") from exc


def _refuse_context(context: EncryptionContext) -> None:
    """Refuse an encryption context: RSAES-OAEP has no associated data."""
    if context:
        raise ValidationException("EncryptionContext is only supported with symmetric encryption KMS keys.")
