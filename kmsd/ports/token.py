"""The token: what it promises, and the errors by which it says that it did not do what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsd.domain.key_import import WrappingAlgorithm
    from kmsd.domain.material import Algorithm
    from kmsd.ports.counters import TokenCounters


class TokenError(Exception):
    """The token did not do what was asked. Its text is for the log; it never holds a secret."""


class TokenUnavailable(TokenError):
    """The token is away, or the daemon is not logged in; it may come back."""


class ModuleUnusable(TokenUnavailable):
    """The PKCS#11 library cannot be loaded: it is not there, or not one. The operator must act."""


class TokenTimeout(TokenUnavailable):
    """The token did not answer within the deadline; whether it acted is unknown."""


class TokenBusy(TokenUnavailable):
    """Too many calls wait for the token already; this one was not begun."""


class PinRefused(TokenUnavailable):
    """The token refused the PIN. It is not offered again until the operator acts (promise: one attempt)."""


class NoSuchObject(TokenError):
    """The token is present and well, and does not hold this object."""


class NotAuthentic(TokenError):
    """Ciphertext, nonce, tag or associated data are not what was sealed; the token itself is well."""


class UnwrapFailed(TokenError):
    """Wrapped key material is not what the wrapping key and the algorithm can open; the token itself is well."""


class InvalidLength(TokenError):
    """What was unwrapped is not key material of 256 bits. It is in no object any more."""


class MaterialMismatch(TokenError):
    """What was unwrapped is not the key material that was expected. It is in no object any more."""


class MechanismMissing(TokenError):
    """The token does not offer the mechanism that this needs; the text names it."""


class Capabilities(msgspec.Struct, frozen=True):
    """What the token proved to do when it was probed (a known answer each, not the mechanism list's word)."""

    algorithms: frozenset[Algorithm]
    """Ways to seal that work; empty: the token is of no use."""
    mechanisms: frozenset[str]
    """PKCS#11 names of all mechanisms that passed their probe, for `kmsd check`."""
    lacking: tuple[tuple[str, str], ...]
    """(mechanism, what the API loses by it) for each that failed."""


class ImportCapabilities(msgspec.Struct, frozen=True):
    """How key material may come in, proven likewise."""

    imports: frozenset[WrappingAlgorithm]
    """How material may be wrapped that the token unwraps, proves and takes in by itself."""
    passes_on: frozenset[WrappingAlgorithm]
    """How material may be wrapped that the token unwraps and wraps again for another token."""
    receives: bool
    """Whether the token takes in what another token passes on."""


class TokenInfo(msgspec.Struct, frozen=True):
    """Which token this is."""

    label: str
    serial: str
    manufacturer: str
    model: str
    max_sessions: int | None = None
    """Sessions that one process may have; None: no limit is known."""


class ObjectReport(msgspec.Struct, frozen=True):
    """One object of the daemon's label as it lies in the token; for reconcile and `kmsd check`."""

    object_id: bytes
    kind: str
    """`secret`, `private` or `public`."""
    problem: str
    """Empty for a well-formed object with the attributes that its role promises; else what is wrong."""
    imported: bool = False
    """Whether the token says that the value came from outside."""


class Wrapped(msgspec.Struct, frozen=True):
    """Key material on its way into a token."""

    blob: bytes
    algorithm: WrappingAlgorithm
    wrapping_key: bytes | None
    """Object id of the wrapping key; None: the token's transport key."""
    transport_key: bytes = b""
    """In that case the public half for which it was wrapped."""
    failure: UnwrapFailed | InvalidLength | None = None
    """What went wrong on the way. The blob then holds a key that nobody knows: the work ahead is done all the same."""


class Token(Protocol):
    """A PKCS#11 token, logged in. All methods may be called concurrently from one event loop.

    Every method raises `TokenUnavailable` (or a subclass) when the token cannot be used, and
    `MechanismMissing` where it lacks what is asked. Object ids are 16 bytes, chosen by the caller at
    random, never reused. What is said to be durable survives the loss of power on return.
    """

    @property
    def info(self) -> TokenInfo:
        """Which token this is."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, probed at start."""
        ...

    @property
    def counters(self) -> TokenCounters:
        """Return the counters of its use, for metrics."""
        ...

    async def import_capabilities(self) -> ImportCapabilities:
        """How key material may come in: probed when it is first asked for, which takes a tenth of a second.

        What is lacking is probed anew when it is asked for much later: a token may have been troubled. Raises
        `TokenUnavailable`.
        """
        ...

    async def random(self, count: int) -> bytes:
        """`count` random bytes (1 to 65 536) from the token's generator."""
        ...

    async def generate_key(self, object_id: bytes, algorithm: Algorithm) -> None:
        """Make an AES-256 object for sealing by `algorithm`; durable on return.

        Its attributes are read back and proven; an object that falls short is destroyed, and
        `TokenError` raised.
        """
        ...

    async def encrypt(self, object_id: bytes, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Nonce, ciphertext and tag, joined. `aad` must not be empty. The nonce is fresh.

        Raises `NoSuchObject`.
        """
        ...

    async def decrypt(self, object_id: bytes, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """The plaintext of what `encrypt` returned. Raises `NotAuthentic`, `NoSuchObject`."""
        ...

    async def generate_signing_key(self, object_id: bytes) -> bytes:
        """Make an ECDSA P-256 pair that signs; durable on return. Its public key, DER SubjectPublicKeyInfo."""
        ...

    async def sign(self, object_id: bytes, digest: bytes) -> bytes:
        """ECDSA signature of a SHA-256 `digest`, DER-encoded. Raises `NoSuchObject`."""
        ...

    async def public_key(self, object_id: bytes) -> bytes:
        """DER SubjectPublicKeyInfo of a pair. Raises `NoSuchObject`."""
        ...

    async def generate_wrapping_key(self, object_id: bytes, bits: int) -> bytes:
        """Make an RSA pair that unwraps and does nothing else; durable on return. Its public key, DER SPKI.

        Takes seconds for long keys. Proven as `generate_key` does.
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
        """Unwrap key material in the token, prove it, and take it in: its fingerprint, the AES-CMAC of `mark`.

        It is proven to have exactly 256 bits, and the `expected` fingerprint if one is given. Then it becomes the
        object `into`, for sealing by that algorithm, durable and with its attributes proven on return; without `into`
        nothing remains in the token. Raises `UnwrapFailed`, `InvalidLength` or `MaterialMismatch`, the first two after
        the same work whatever is wrong with the blob; then the token holds no object of that id. The material is in
        the clear nowhere outside the token.
        """
        ...

    async def transport_key(self) -> bytes:
        """The public half, DER SPKI, of the RSA pair by which this token receives material from another token.

        It lives as long as the login; material for an earlier one is refused with `TokenUnavailable`.
        """
        ...

    async def rewrap_for(self, wrapped: Wrapped, transport_key: bytes) -> Wrapped:
        """Unwrap key material in this token, and wrap it there for the one whose transport key this is.

        A blob that cannot be unwrapped is no error: the answer has `failure`, after the same work.
        """
        ...

    async def destroy(self, object_id: bytes) -> None:
        """Destroy all objects of this id; none there is no error. Durable, and looked up again, on return."""
        ...

    async def list_objects(self) -> Sequence[ObjectReport]:
        """All objects that carry the daemon's label, malformed ones too. Slow; not for the request path."""
        ...

    def invalidate(self, object_id: bytes) -> None:
        """Drop every handle and derived key of this object from memory, now."""
        ...

    async def check(self) -> None:
        """Prove by an operation on the sentinel object that the token is there and logged in."""
        ...

    async def close(self) -> None:
        """End all sessions and release the module. Calls under way are finished first."""
        ...
