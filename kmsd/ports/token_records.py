"""Errors of tokens, and the records that their methods take and return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.key_spec import KeySpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.domain.key_import import WrappingAlgorithm
    from kmsd.domain.material import Algorithm, KeyReference


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


class TamperedMaterial(TokenError):
    """A row of wrapped material is not as the daemon has written it. Its key was not used."""


class Capabilities(msgspec.Struct, frozen=True):
    """Capabilities that known-answer tests verified, independent of the token's mechanism list."""

    algorithms: frozenset[Algorithm]
    """Algorithms that the token encrypts and decrypts with. Empty: the token is unusable."""
    opens: frozenset[Algorithm]
    """Algorithms that it decrypts with: those and more, if it makes its own nonces."""
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
    wrapping_key: KeyReference | None
    """The wrapping key; None: the token's transport key."""
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
