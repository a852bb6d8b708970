"""Signatures: made in the token, verified with the public key in the process.

Verification needs no secret. The process has the public key from the token, and compares it again at each start
(`kmsd.jobs.reconcile`). A token would verify more slowly, and some tokens cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.custody import key_material, public_keys, wrapped_material
from kmsd.domain.key_spec import HASH_BYTES, MessageType, SigningAlgorithm, hash_of
from kmsd.errors import UnsupportedOperationException, ValidationException

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.key import Key
    from kmsd.ports import Tokens

RAW_ONLY = (SigningAlgorithm.ED25519_SHA_512, SigningAlgorithm.ML_DSA_SHAKE_256)
"""Algorithms that sign messages, never digests."""


class SignedMessage(msgspec.Struct, frozen=True):
    """A message, or the digest of one, and the algorithm that signs it."""

    algorithm: SigningAlgorithm
    content: bytes
    is_digest: bool


def signed_message(algorithm: SigningAlgorithm, content: bytes, message_type: MessageType) -> SignedMessage:
    """Return the message. Raises an error for a type or a length that the algorithm does not take."""
    if message_type is MessageType.EXTERNAL_MU:
        raise UnsupportedOperationException(
            "MessageType EXTERNAL_MU is not supported: PKCS#11 has no mechanism for it."
        )
    is_digest = message_type is MessageType.DIGEST
    if is_digest and algorithm in RAW_ONLY:
        raise ValidationException(f"Algorithm {algorithm} and message type {message_type} are not compatible.")
    if is_digest and len(content) != HASH_BYTES[hash_of(algorithm)]:
        raise ValidationException(f"Digest is invalid length for algorithm {algorithm}.")
    return SignedMessage(algorithm, content, is_digest)


async def sign(tokens: Tokens, key: Key, now: datetime, message: SignedMessage) -> bytes:
    """Sign in the token. Raises KeyUnavailableException, and the token's errors (`kmsd.ports`)."""
    material = key_material.current(key, now)
    token = tokens.of(material)
    return await token.sign(material.reference, message.algorithm, message.content, is_digest=message.is_digest)


async def verify(tokens: Tokens, key: Key, now: datetime, message: SignedMessage, signature: bytes) -> bool:
    """Return whether the signature is that of the message, or of the digest, under the key.

    Raises KeyUnavailableException, and the token's errors (`kmsd.ports`).
    """
    public = public_keys.load(await wrapped_material.public_key(tokens, key_material.current(key, now)))
    return public_keys.is_valid_signature(
        public, message.algorithm, message.content, signature, is_digest=message.is_digest
    )
