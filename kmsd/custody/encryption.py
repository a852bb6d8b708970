"""Encrypt and decrypt under a key: combines blob format, key material and token."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kmsd.custody import key_material, rsa_encryption, wrapped_material
from kmsd.custody.rsa_encryption import RsaCiphertext
from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.ciphertext_blob import Blob
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.key import Key
from kmsd.domain.key_spec import SYMMETRIC_DEFAULT, EncryptionAlgorithm
from kmsd.domain.material import Material, MaterialStatus, key_material_id
from kmsd.errors import IncorrectKeyException, InvalidCiphertextException
from kmsd.ports import NotAuthentic, Tokens


class Opened(msgspec.Struct, frozen=True):
    """The content of a blob, and the key material that decrypted it."""

    plaintext: bytes
    material: Material

    @property
    def key_material_id(self) -> str | None:
        """`KeyMaterialId` of the API; None for an RSA key, which has one material only."""
        return None if self.material.algorithm is None else key_material_id(self.material.material_id)


async def encrypt(
    tokens: Tokens,
    key: Key,
    now: datetime,
    plaintext: bytes,
    context: EncryptionContext,
    *,
    algorithm: str = SYMMETRIC_DEFAULT,
) -> bytes:
    """Encrypt `plaintext` under the key's current material and return the blob; with an RSA key, the raw ciphertext.

    The caller has checked the key's state, usage and algorithm. Raises KeyUnavailableException if the material is not
    ready, ValidationException for what an RSA key cannot encrypt, and the token's errors (`kmsd.ports`).
    """
    material = key.material_at(now)
    if material is None or material.status is not MaterialStatus.READY:
        raise key_material.unavailable(key)
    if material.algorithm is None:
        public_key = await wrapped_material.public_key(tokens, material)
        return rsa_encryption.encrypt(key, public_key, EncryptionAlgorithm(algorithm), plaintext, context)
    head = blobs.header(material.algorithm, key.key_id, material.material_id)
    aad = blobs.associated_data(head, context)
    reference = material.wrapped or material.material_id
    return head + await tokens.of(material).encrypt(reference, material.algorithm, plaintext, aad)


async def decrypt(tokens: Tokens, key: Key, blob: Blob, context: EncryptionContext) -> Opened:
    """Decrypt `blob`, which must be encrypted under `key` with this context.

    Raises IncorrectKeyException for a blob of another key. Raises InvalidCiphertextException (without message, as AWS)
    if blob or context were changed, KeyUnavailableException if the material is not ready.
    """
    if blob.key_id != key.key_id:
        raise IncorrectKeyException(
            "The key ID in the request does not identify a CMK that can perform this operation."
        )
    material = key.materials.get(blob.material_id)
    if material is None or material.algorithm is not blob.algorithm:
        raise InvalidCiphertextException(detail="the blob names a material that the key does not have")
    if material.status is not MaterialStatus.READY:
        raise key_material.unavailable(key)
    aad = blobs.associated_data(blob.head, context)
    try:
        reference = material.wrapped or material.material_id
        plaintext = await tokens.of(material).decrypt(reference, blob.algorithm, blob.sealed, aad)
    except NotAuthentic as exc:
        raise InvalidCiphertextException(detail="the token did not authenticate it") from exc
    return Opened(plaintext, material)


async def decrypt_any(
    tokens: Tokens, key: Key, now: datetime, ciphertext: Blob | RsaCiphertext, context: EncryptionContext
) -> Opened:
    """Decrypt a blob, or the ciphertext of an RSA key. Raises as `decrypt`."""
    if isinstance(ciphertext, Blob):
        return await decrypt(tokens, key, ciphertext, context)
    material = key_material.current(key, now)
    return Opened(await rsa_encryption.decrypt(tokens, key, material, ciphertext, context), material)
