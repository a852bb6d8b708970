"""Keys of every kind as the contract tests make and check them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm, hash_of

HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA_1": hashes.SHA1(),  # noqa: S303 (as the API has it)
    "SHA_256": hashes.SHA256(),
    "SHA_384": hashes.SHA384(),
    "SHA_512": hashes.SHA512(),
}
Kind = tuple[KeySpec, KeyUsage]


def kinds() -> Iterator[Kind]:
    """Every spec and usage except symmetric encryption."""
    for spec, usages in ALGORITHMS.items():
        if spec is not KeySpec.SYMMETRIC_DEFAULT:
            yield from ((spec, usage) for usage in usages)


def new_id() -> bytes:
    """A fresh object id."""
    return secrets.token_bytes(16)


async def pair_of(token: Pkcs11Token, spec: KeySpec, usage: KeyUsage) -> tuple[bytes, bytes]:
    """A pair, and its public key."""
    object_id = new_id()
    return object_id, await token.generate_key_pair(object_id, spec, usage)


def verify(public_key: bytes, algorithm: SigningAlgorithm, content: bytes, signature: bytes, *, digest: bool) -> None:
    """Verify a signature by `cryptography`. Raises InvalidSignature."""
    key = load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        key.verify(signature, content)  # type: ignore[union-attr, call-arg]
        return
    function = HASHES[hash_of(algorithm)]
    how = utils.Prehashed(function) if digest else function
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, content, ec.ECDSA(how))
    elif "PSS" in algorithm:
        key.verify(signature, content, padding.PSS(padding.MGF1(function), function.digest_size), how)
    else:
        key.verify(signature, content, padding.PKCS1v15(), how)


def oaep(algorithm: str) -> padding.OAEP:
    """The padding of `cryptography` for an encryption algorithm."""
    function = HASHES[hash_of(algorithm)]
    return padding.OAEP(padding.MGF1(function), function, None)


def mac_of(spec: KeySpec) -> MacAlgorithm:
    """The algorithm of an HMAC spec."""
    return MacAlgorithm(ALGORITHMS[spec][KeyUsage.GENERATE_VERIFY_MAC][0])


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The uncompressed point."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
