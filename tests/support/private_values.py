"""Searches for private values in buffers."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from math import gcd

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from kmsd.domain.key_spec import HMAC_BITS, KeySpec
from kmsd.domain.material import Algorithm, WrappedMaterial
from tests.support.key_kinds import mac_of
from tests.support.software_cryptography import software_open
from tests.support.software_transfer import mac

Reveals = Callable[[bytes], bool]
"""True if a buffer has the private value, in either order of its bytes."""


def windows(buffer: bytes, length: int) -> Iterator[bytes]:
    """Every run of so many bytes, and its reverse."""
    for start in range(len(buffer) - length + 1):
        window = buffer[start : start + length]
        yield window
        yield window[::-1]


def reveals_rsa(key: rsa.RSAPublicKey) -> Reveals:
    """By a factor of the modulus in any place, or as a whole by one of the private exponents."""
    n, e = key.public_numbers().n, key.public_numbers().e
    size = key.key_size // 8

    def reveals(buffer: bytes) -> bool:
        factors = (int.from_bytes(window, "big") for window in windows(buffer, size // 2))
        if any(1 < gcd(factor, n) < n for factor in factors):
            return True
        exponents = (int.from_bytes(buffer, order) for order in ("big", "little") if len(buffer) <= size)
        return any(gcd(pow(2, e * exponent, n) - 2, n) > 1 for exponent in exponents)

    return reveals


def reveals_scalar(key: ec.EllipticCurvePublicKey) -> Reveals:
    """By the private scalar."""
    order = key.curve.group_order

    def reveals(buffer: bytes) -> bool:
        numbers = (int.from_bytes(window, "big") for window in windows(buffer, 32))
        return any(
            0 < number < order and ec.derive_private_key(number, key.curve).public_key() == key for number in numbers
        )

    return reveals


def reveals_seed(key: ed25519.Ed25519PublicKey) -> Reveals:
    """By the private key of RFC 8032."""

    def reveals(buffer: bytes) -> bool:
        seeds = windows(buffer, 32)
        return any(ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key() == key for seed in seeds)

    return reveals


def reveals_ml_key(key: mldsa.MLDSA44PublicKey | mlkem.MLKEM768PublicKey) -> Reveals:
    """By the seed in a short buffer, or by the length of the expanded key (FIPS 204, table 2; FIPS 203, table 3)."""
    is_dsa = isinstance(key, mldsa.MLDSA44PublicKey)
    private_class = mldsa.MLDSA44PrivateKey if is_dsa else mlkem.MLKEM768PrivateKey
    seed_length, expanded_length = (32, 2560) if is_dsa else (64, 2400)

    def reveals(buffer: bytes) -> bool:
        seeds = windows(buffer, seed_length) if len(buffer) <= 2 * seed_length else ()
        return len(buffer) >= expanded_length or any(
            private_class.from_seed_bytes(seed).public_key() == key for seed in seeds
        )

    return reveals


def reveals_mac_key(spec: KeySpec, mac: bytes, message: bytes = b"m") -> Reveals:
    """By the key under which the message has this MAC."""
    name = mac_of(spec).removeprefix("HMAC_").replace("_", "")

    def reveals(buffer: bytes) -> bool:
        return any(hmac.digest(value, message, name) == mac for value in windows(buffer, HMAC_BITS[spec] // 8))

    return reveals


def reveals_sealing_key(algorithm: Algorithm, sealed: bytes, aad: bytes) -> Reveals:
    """By the key of a ciphertext, or the key that was derived from it for the message."""

    def opens(key: bytes) -> bool:
        iv, text = sealed[: algorithm.nonce_length][-12:], sealed[algorithm.nonce_length :]
        for attempt in (
            lambda: software_open(key, algorithm, sealed, aad),
            lambda: AESGCM(key).decrypt(iv, text, aad),
        ):
            try:
                attempt()
            except InvalidTag:
                continue
            return True
        return False

    return lambda buffer: any(opens(window) for window in windows(buffer, 32))


def reveals_domain_key(wrapped: bytes) -> Reveals:
    """By the AES-256 key that unwraps this (RFC 3394)."""

    def opens(key: bytes) -> bool:
        try:
            aes_key_unwrap(key, wrapped)
        except InvalidUnwrap:
            return False
        return True

    return lambda buffer: any(opens(window) for window in windows(buffer, 32))


def reveals_binding_key(material: WrappedMaterial) -> Reveals:
    """By the AES-192 key of a row's MAC."""
    text = material.bound_text()
    return lambda buffer: any(mac(window, text) == material.mac for window in windows(buffer, 24))
