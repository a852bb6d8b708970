"""Public keys of pairs in the token. Operations with them run in the process: no secret takes part."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

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
