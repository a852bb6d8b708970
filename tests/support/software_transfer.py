"""Software in the place of a token in a transfer of domain keys: it knows their values."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kmsd.custody.domain_key_transfer import Copies, SentDomainKey, Transfer, checked_text, new_transfer

OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 (the only one of SoftHSM)


def mac(key: bytes, text: bytes) -> bytes:
    """AES-CMAC, in software."""
    cmac = CMAC(AES(key))
    cmac.update(text)
    return cmac.finalize()


def opened(private: rsa.RSAPrivateKey, wrapped: bytes) -> bytes:
    """The value of a domain key that was wrapped for this key."""
    size = private.key_size // 8
    return aes_key_unwrap_with_padding(private.decrypt(wrapped[:size], OAEP), wrapped[size:])


def sealed(public_key: bytes, value: bytes) -> bytes:
    """A domain key's value, wrapped as a sending token does."""
    key, public = secrets.token_bytes(32), load_der_public_key(public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(key, OAEP) + aes_key_wrap_with_padding(key, value)


def sent(value: bytes, domain_key_id: bytes) -> SentDomainKey:
    """The domain key of this value, with a binding key."""
    binding_key = secrets.token_bytes(24)
    return SentDomainKey(domain_key_id, aes_key_wrap(value, binding_key), mac(binding_key, checked_text(domain_key_id)))


def transfer_of(public_key: bytes, values: Sequence[bytes]) -> Transfer:
    """Domain keys of these values for one recipient."""
    keys = [sent(value, secrets.token_bytes(16)) for value in values]
    wrapped = tuple(sealed(public_key, value) for value in values)
    return new_transfer("software", keys, [Copies(sha256(public_key).digest(), wrapped)])


def software_key() -> tuple[rsa.RSAPrivateKey, bytes]:
    """A recipient whose private key the test knows."""
    private = rsa.generate_private_key(65537, 3072)
    return private, private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
