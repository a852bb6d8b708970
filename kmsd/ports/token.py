"""Port of the PKCS#11 token: its promises, and its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from kmsd.domain.key_spec import KeySpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.key_import import KeyKind, WrappingAlgorithm
    from kmsd.domain.key_spec import EncryptionAlgorithm, KeyUsage, MacAlgorithm, SigningAlgorithm
    from kmsd.domain.material import Algorithm
    from kmsd.ports.counters import TokenCounters


class TokenError(Exception):
    """The token did not perform the operation. The text is for the log and never contains a secret."""


class TokenUnavailable(TokenError):
    """The token is unreachable, or the daemon is not logged in. It may recover."""


class ModuleUnusable(TokenUnavailable):
    """The PKCS#11 library cannot be loaded: it is missing, or not such a library. The operator must act."""


class TokenTimeout(TokenUnavailable):
    """The token did not return within the deadline. It may or may not have performed the operation."""


class TokenBusy(TokenUnavailable):
    """Too many calls are waiting for the token. This one was not started."""


class PinRefused(TokenUnavailable):
    """The token refused the PIN. It is not tried again until the operator acts (promise: one attempt)."""


class NoSuchObject(TokenError):
    """The token works, but does not hold this object."""


class NotAuthentic(TokenError):
    """Ciphertext, nonce, tag or associated data are not those of an encryption. The token itself works."""


class UnwrapFailed(TokenError):
    """Wrapped key material cannot be unwrapped with this wrapping key and algorithm. The token itself works."""


class InvalidLength(TokenError):
    """The unwrapped content is not key material of 256 bits. Its object was destroyed."""


class MaterialMismatch(TokenError):
    """The unwrapped content is not the expected key material. Its object was destroyed."""


class UnsuitableMaterial(TokenError):
    """The unwrapped content is no key of the required kind. Its object was destroyed. The text is for the client."""


class MechanismMissing(TokenError):
    """The token does not offer a required mechanism. The text names it."""


class CustodyNotEnforced(TokenError):
    """The token does not enforce what a domain key promises. The text names what. It must wrap no key material."""


class Capabilities(msgspec.Struct, frozen=True):
    """Capabilities that known-answer tests verified, independent of the token's mechanism list."""

    algorithms: frozenset[Algorithm]
    """Encryption algorithms that work. Empty: the token is unusable."""
    mechanisms: frozenset[str]
    """PKCS#11 names of all mechanisms that passed their probe, for `kmsd check`."""
    lacking: tuple[tuple[str, str], ...]
    """(mechanism, what the API cannot offer without it) for each that failed."""


class KeyOffer(msgspec.Struct, frozen=True):
    """Algorithms that the token offers for keys of one spec and usage, verified by self-tests."""

    algorithms: tuple[str, ...]
    """API names of the algorithms that work, in AWS's order. Empty: such keys cannot be created."""
    lacking: Mapping[str, str]
    """Algorithm to the reason why it does not work: the mechanism that is missing or answered wrongly."""


class ImportCapabilities(msgspec.Struct, frozen=True):
    """Capabilities for importing key material, verified in the same way."""

    imports: frozenset[WrappingAlgorithm]
    """Algorithms of wrapped material that the token unwraps, verifies and stores by itself."""
    passes_on: frozenset[WrappingAlgorithm]
    """Algorithms of wrapped material that the token unwraps and rewraps for another token."""
    receives: bool
    """True if the token accepts material that another token has rewrapped."""
    specs: frozenset[KeySpec] = frozenset()
    """RSA, ECC and HMAC specs whose material the token unwraps, verifies and stores."""
    passes_on_specs: frozenset[KeySpec] = frozenset()
    """Those whose material it unwraps and rewraps for another token."""


class TokenInfo(msgspec.Struct, frozen=True):
    """Identity of a token."""

    label: str
    serial: str
    manufacturer: str
    model: str
    max_sessions: int | None = None
    """Sessions that one process may open; None if no limit is known."""


class ObjectReport(msgspec.Struct, frozen=True):
    """An object in the token with the daemon's label, for reconcile and `kmsd check`."""

    object_id: bytes
    kind: str
    """`secret`, `private` or `public`."""
    problem: str
    """Empty for a well-formed object with the attributes that its role requires; else a description of the fault."""
    imported: bool = False
    """True if the token states that the value came from outside."""
    public_key: bytes = b""
    """DER SubjectPublicKeyInfo of a public half; empty if it cannot be read."""


class Wrapped(msgspec.Struct, frozen=True):
    """Key material on its way into a token."""

    blob: bytes
    algorithm: WrappingAlgorithm
    wrapping_key: bytes | None
    """Object id of the wrapping key; None: the token's transport key."""
    transport_key: bytes = b""
    """In that case, the public key for which it was wrapped."""
    failure: UnwrapFailed | InvalidLength | None = None
    """Failure of an earlier step. The blob then contains a random key, so that the next step does the same work."""


class ImportedKey(msgspec.Struct, frozen=True):
    """Properties of RSA, ECC or HMAC material that a token has proven."""

    fingerprint: bytes
    """16 bytes of a secret's HMAC of the mark, or SHA-256 of the mark and the public key."""
    public_key: bytes
    """Public half of a pair, DER SubjectPublicKeyInfo; empty for a secret."""


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

    async def encrypt(self, object_id: bytes, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt, and return nonce, ciphertext and tag, joined. `aad` must not be empty. The nonce is fresh.

        Raises `NoSuchObject`.
        """
        ...

    async def decrypt(self, object_id: bytes, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
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

    async def sign(self, object_id: bytes, algorithm: SigningAlgorithm, message: bytes, *, is_digest: bool) -> bytes:
        """Return the signature of a message, or of the digest of one.

        ECDSA signatures are DER (RFC 3279 section 2.2.3), others are raw. The process computes the digest where the
        token cannot. A digest has the length of the algorithm's hash; Ed25519 and ML-DSA sign messages only. Raises
        `NoSuchObject`, and ValueError for a digest that the algorithm does not take.
        """
        ...

    async def mac(self, object_id: bytes, algorithm: MacAlgorithm, message: bytes) -> bytes:
        """Return the whole HMAC of `message`. Raises `NoSuchObject`."""
        ...

    async def decrypt_rsa(self, object_id: bytes, algorithm: EncryptionAlgorithm, ciphertext: bytes) -> bytes:
        """Decrypt with the private key of a pair. Raises `NotAuthentic` for every fault of the ciphertext."""
        ...

    async def agree(self, object_id: bytes, peer_point: bytes) -> bytes:
        """Return the raw ECDH secret (the x coordinate) with a peer's uncompressed point on the key's curve.

        The caller has checked that the point is on the curve. Raises `NoSuchObject`.
        """
        ...

    async def encapsulate(self, object_id: bytes) -> tuple[bytes, bytes]:
        """Return a fresh secret of 32 bytes, and its ML-KEM ciphertext. Raises `NoSuchObject`."""
        ...

    async def decapsulate(self, object_id: bytes, ciphertext: bytes) -> bytes:
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

    async def attributes(self, object_id: bytes) -> Mapping[str, bool | bytes | int]:
        """Return the attributes that the token shows of the secret or private object, by their names (`CKA_LOCAL`).

        Raises `NoSuchObject`.
        """
        ...

    def invalidate(self, object_id: bytes) -> None:
        """Evict every cached handle and derived key of this object immediately."""
        ...

    async def check(self) -> None:
        """Verify with an operation on the sentinel object that the token is present and logged in."""
        ...

    async def close(self) -> None:
        """Finish calls in progress, then close all sessions and release the module."""
        ...
