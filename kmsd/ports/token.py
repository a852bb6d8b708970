"""Port of the PKCS#11 token: its promises. The errors are in `kmsd.ports.token_records`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kmsd.domain.key_spec import KeySpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.key_import import KeyKind
    from kmsd.domain.key_spec import EncryptionAlgorithm, KeyUsage, MacAlgorithm, SigningAlgorithm
    from kmsd.domain.material import Algorithm, KeyReference
    from kmsd.ports.counters import TokenCounters
    from kmsd.ports.token_records import (
        Capabilities,
        ImportCapabilities,
        ImportedKey,
        KeyOffer,
        ObjectReport,
        TokenInfo,
        Wrapped,
    )
    from kmsd.ports.wrapped_custody import WrappedCustody


class Token(Protocol):
    """A PKCS#11 token, logged in. All methods may be called concurrently from one event loop.

    Every method raises `TokenUnavailable` (or a subclass) when the token cannot be used, and `MechanismMissing` if it
    lacks the mechanism. Object ids are 16 random bytes, chosen by the caller and never reused. "Durable on return"
    means that the object survives a power failure.
    """

    @property
    def info(self) -> TokenInfo:
        """Identity of the token."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities, verified at start."""
        ...

    @property
    def counters(self) -> TokenCounters:
        """Counters of its use, for metrics."""
        ...

    @property
    def custody(self) -> WrappedCustody:
        """Wrapped material and domain keys."""
        ...

    @property
    def needs_new_process(self) -> bool:
        """True if the module has leaked so much memory that another process should replace this one."""
        ...

    async def import_capabilities(self) -> ImportCapabilities:
        """Return the capabilities for importing. The first call verifies them, which takes up to a second.

        A much later call verifies missing ones again, because the failure may have been temporary. Raises
        `TokenUnavailable`.
        """
        ...

    async def key_offers(self) -> Mapping[tuple[KeySpec, KeyUsage], KeyOffer]:
        """Return an entry for every spec and usage except symmetric encryption.

        The first call verifies each by a self-test; a later call verifies again what failed because the token was
        unavailable. Raises `TokenUnavailable`.
        """
        ...

    async def random(self, count: int) -> bytes:
        """Return `count` random bytes (1 to 65 536) from the token's generator."""
        ...

    async def generate_key(self, object_id: bytes, algorithm: Algorithm) -> None:
        """Create an AES-256 object for encryption by `algorithm`. Durable on return.

        Its attributes are read back and verified. If they are wrong, the object is destroyed and `TokenError` raised.
        """
        ...

    async def encrypt(self, key: KeyReference, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt, and return nonce, ciphertext and tag, joined. `aad` must not be empty. The nonce is fresh.

        Raises `NoSuchObject`.
        """
        ...

    async def decrypt(self, key: KeyReference, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt the result of `encrypt`. Raises `NotAuthentic`, `NoSuchObject`."""
        ...

    async def generate_mac_key(self, object_id: bytes, spec: KeySpec) -> None:
        """Create a secret of an HMAC spec that can only compute MACs; durable and verified as in `generate_key`."""
        ...

    async def generate_key_pair(self, object_id: bytes, spec: KeySpec, usage: KeyUsage) -> bytes:
        """Create a key pair that can serve only this usage. Return the public key, DER SubjectPublicKeyInfo.

        Durable on return, verified as in `generate_key`. Takes seconds for long RSA keys.
        """
        ...

    async def sign(self, key: KeyReference, algorithm: SigningAlgorithm, message: bytes, *, is_digest: bool) -> bytes:
        """Return the signature of a message, or of the digest of one.

        ECDSA signatures are DER (RFC 3279 section 2.2.3), others are raw. The process computes the digest where the
        token cannot. A digest has the length of the algorithm's hash; Ed25519 and ML-DSA sign messages only. Raises
        `NoSuchObject`, and ValueError for a digest that the algorithm does not take.
        """
        ...

    async def mac(self, key: KeyReference, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """Return the whole HMAC of `message`. Raises `NoSuchObject`."""
        ...

    async def decrypt_rsa(self, key: KeyReference, algorithm: EncryptionAlgorithm, ciphertext: bytes) -> bytes:
        """Decrypt with the private key of a pair. Raises `NotAuthentic` for every fault of the ciphertext."""
        ...

    async def agree(self, key: KeyReference, peer_point: bytes) -> bytes:
        """Return the raw ECDH secret (the x coordinate) with a peer's uncompressed point on the key's curve.

        The caller has checked that the point is on the curve. Raises `NoSuchObject`.
        """
        ...

    async def encapsulate(self, object_id: bytes) -> tuple[bytes, bytes]:
        """Return a fresh secret of 32 bytes, and its ML-KEM ciphertext. Raises `NoSuchObject`."""
        ...

    async def decapsulate(self, key: KeyReference, ciphertext: bytes) -> bytes:
        """Return the secret of an ML-KEM ciphertext of the right length (FIPS 203: a wrong one gives another secret).

        Raises `NoSuchObject`.
        """
        ...

    async def public_key(self, object_id: bytes) -> bytes:
        """Return the public key of a key pair, DER SubjectPublicKeyInfo. Raises `NoSuchObject`."""
        ...

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        """Create an RSA key pair that can only unwrap. Durable on return. Return the public key, DER SPKI.

        Takes seconds for long keys. Attributes are verified as in `generate_key`.
        """
        ...

    async def unwrap_key(
        self,
        wrapped: Wrapped,
        mark: bytes,
        *,
        expected: bytes | None = None,
        into: tuple[bytes, Algorithm] | None = None,
    ) -> bytes:
        """Unwrap and verify key material in the token. Return its fingerprint, the AES-CMAC of `mark`.

        The material must have exactly 256 bits, and the `expected` fingerprint if one is given. It then becomes the
        object `into`, for encryption by that algorithm, durable and with verified attributes on return. Without `into`
        nothing remains in the token. Raises `UnwrapFailed`, `InvalidLength` or `MaterialMismatch`, the first two after
        the same work for every fault of the blob. After an error the token holds no object of that id. The material is
        never in the clear outside the token.
        """
        ...

    async def import_key(
        self,
        wrapped: Wrapped,
        kind: KeyKind,
        mark: bytes,
        *,
        expected: bytes | None = None,
        into: bytes | None = None,
    ) -> ImportedKey:
        """Unwrap and verify RSA, ECC or HMAC material in the token. Return its fingerprint, and its public key.

        RSA and ECC material is a DER-encoded PKCS #8 private key; its signature has proven the public key. HMAC
        material has the length of its spec. It must have the `expected` fingerprint if one is given. It then becomes
        the object or the pair `into`, for this usage alone, durable and with verified attributes on return. Without
        `into` nothing remains in the token. Raises `UnwrapFailed`, after the same work for every fault of the blob;
        `UnsuitableMaterial` or `MaterialMismatch`. After an error the token holds no object of that id. The material is
        never in the clear outside the token.
        """
        ...

    async def transport_key(self) -> bytes:
        """Return the public key, DER SPKI, of the RSA key pair that receives material from another token.

        The key pair lasts as long as the login. Material for an earlier one is refused with `TokenUnavailable`.
        """
        ...

    async def rewrap_for(
        self, wrapped: Wrapped, transport_key: bytes, spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    ) -> Wrapped:
        """Unwrap key material in this token, and wrap it there under the other token's transport key.

        A blob of a symmetric key that cannot be unwrapped is no error: the result has `failure` set, after the same
        work. For other specs, whose blobs all have integrity, it raises `UnwrapFailed`.
        """
        ...

    async def destroy(self, object_id: bytes) -> None:
        """Destroy all objects of this id; it is no error if there is none. Durable, and looked up again, on return."""
        ...

    async def list_objects(self) -> Sequence[ObjectReport]:
        """Return all objects with the daemon's label, including malformed ones. Slow: not for the request path."""
        ...

    async def attributes(self, key: KeyReference) -> Mapping[str, bool | bytes | int]:
        """Return the attributes that the token shows of the secret or private object, by their names (`CKA_LOCAL`).

        Raises `NoSuchObject`.
        """
        ...

    def invalidate(self, object_id: bytes) -> None:
        """Evict every cached handle, unwrapped and derived key of this object or material immediately."""
        ...

    async def check(self) -> None:
        """Verify with an operation on the sentinel object that the token is present and logged in."""
        ...

    async def close(self) -> None:
        """Finish calls in progress, then close all sessions and release the module."""
        ...
