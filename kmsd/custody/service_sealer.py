"""Authenticated encryption of the daemon's own small secrets, by a service key.

Used for access keys' secrets at rest and for all opaque values of the API: grant tokens, markers, import tokens,
session tokens. Encryption is authenticated, so none of them can be forged or used for another purpose.

The service key is a token object (version 1 of a sealed text), or material that is wrapped under a domain key
(version 2), so that every HSM with the domain key has it. Where there are both, the object opens what it has sealed.
"""

from __future__ import annotations

import msgspec

from kmsd.domain import encryption_context
from kmsd.domain.material import TAG_LENGTH, Algorithm
from kmsd.ports import NotAuthentic, Reader, ServiceKey, StoreUnavailable, Token

PURPOSE = "sealing"
"""Name of the service key."""
OF_OBJECT, _OF_WRAPPED = b"\x01", b"\x02"
"""First byte of a sealed text, by the kind of the key."""


def wrapped_purpose(key: str) -> str:
    """Return the purpose of the wrapped key that takes over from the service key of this purpose."""
    return f"{key}:wrapped"


def is_of_wrapped(sealed: bytes) -> bool:
    """True if a wrapped key has sealed a text."""
    return sealed[:1] == _OF_WRAPPED


class ServiceSealer(msgspec.Struct, frozen=True):
    """Encrypts and decrypts under one of the daemon's own keys."""

    token: Token
    keys: tuple[ServiceKey, ...]
    """The key that encrypts, and those that decrypt, too."""

    @classmethod
    async def of(cls, reader: Reader, token: Token, key: str = PURPOSE) -> ServiceSealer:
        """Return the sealer for a service key. Raises `StoreUnavailable` if `kmsd init` has not been run."""
        known = await reader.service_keys()
        keys = tuple(known[purpose] for purpose in (wrapped_purpose(key), key) if purpose in known)
        if not keys:
            raise StoreUnavailable(f"the store names no {key} key: run `kmsd init`")
        return cls(token, keys)

    async def encrypt(self, purpose: str, subject: str, content: bytes) -> bytes:
        """Encrypt `content`, bound to a purpose (`access-key`) and a subject (the access key id)."""
        key = self.keys[0]
        head, algorithm = _head(key)
        aad = head + encryption_context.canonical({"purpose": purpose, "subject": subject})
        return head + await self.token.encrypt(key.reference, algorithm, content, aad)

    async def decrypt(self, purpose: str, subject: str, sealed: bytes) -> bytes:
        """Return the content. Raises `NotAuthentic` unless this daemon sealed it for this purpose and subject."""
        for key in self.keys:
            head, algorithm = _head(key)
            if sealed[:2] == head and len(sealed) >= len(head) + algorithm.nonce_length + TAG_LENGTH:
                aad = head + encryption_context.canonical({"purpose": purpose, "subject": subject})
                return await self.token.decrypt(key.reference, algorithm, sealed[2:], aad)
        raise NotAuthentic("not a sealed text of this daemon")

    async def reseal(self, purpose: str, subject: str, sealed: bytes) -> bytes:
        """Return a sealed text, sealed again by the key that encrypts. Raises as `decrypt`."""
        return await self.encrypt(purpose, subject, await self.decrypt(purpose, subject, sealed))


def _head(key: ServiceKey) -> tuple[bytes, Algorithm]:
    """Return the first bytes of what a key seals, and its algorithm."""
    if key.algorithm is None:
        raise StoreUnavailable(f"the {key.purpose} key does not encrypt")
    version = OF_OBJECT if key.wrapped is None else _OF_WRAPPED
    return version + bytes((key.algorithm,)), key.algorithm
