"""Public keys of pairs in the token. Operations with them run in the process: no secret takes part."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from kmsd.domain.key_spec import SigningAlgorithm, hash_of

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | mldsa.MLDSA44PublicKey
HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA_1": hashes.SHA1(),  # noqa: S303 (RSAES_OAEP_SHA_1 is an algorithm of the API)
    "SHA_256": hashes.SHA256(),
    "SHA_384": hashes.SHA384(),
    "SHA_512": hashes.SHA512(),
}
MAX_LOADED = 1_024
"""Public keys that stay decoded."""


@lru_cache(maxsize=MAX_LOADED)
def load(public_key: bytes) -> PublicKey:
    """Decode a DER SubjectPublicKeyInfo. Raises ValueError."""
    loaded: PublicKey = serialization.load_der_public_key(public_key)  # type: ignore[assignment] # of a key's material
    return loaded


def is_valid_signature(
    public: PublicKey, algorithm: SigningAlgorithm, content: bytes, signature: bytes, *, is_digest: bool
) -> bool:
    """Return whether a signature is that of a message, or of the digest of one."""
    try:
        match public:
            case rsa.RSAPublicKey():
                public.verify(signature, content, _padding(algorithm), _hash(algorithm, is_digest=is_digest))
            case ec.EllipticCurvePublicKey():
                public.verify(signature, content, ec.ECDSA(_hash(algorithm, is_digest=is_digest)))
            case _:
                public.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _hash(algorithm: SigningAlgorithm, *, is_digest: bool) -> hashes.HashAlgorithm | utils.Prehashed:
    function = HASHES[hash_of(algorithm)]
    return utils.Prehashed(function) if is_digest else function


def _padding(algorithm: SigningAlgorithm) -> padding.AsymmetricPadding:
    if not algorithm.startswith("RSASSA_PSS"):
        return padding.PKCS1v15()
    function = HASHES[hash_of(algorithm)]
    # The salt is as long as the digest, as AWS KMS has it.
    return padding.PSS(padding.MGF1(function), function.digest_size)
