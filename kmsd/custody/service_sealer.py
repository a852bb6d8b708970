"""Authenticated encryption of the daemon's own small secrets, by a service key in the token.

Used for access keys' secrets at rest and for all opaque values of the API: grant tokens, markers, import tokens,
session tokens. Encryption is authenticated, so none of them can be forged or used for another purpose.
"""

from __future__ import annotations

import msgspec

from kmsd.domain import encryption_context
from kmsd.domain.material import TAG_LENGTH, Algorithm
from kmsd.ports import NotAuthentic, Reader, StoreUnavailable, Token

PURPOSE = "sealing"
"""Name of the service key."""
_VERSION = b"\x01"


class ServiceSealer(msgspec.Struct, frozen=True):
    """Encrypts and decrypts under the daemon's sealing key."""

    token: Token
    object_id: bytes
    algorithm: Algorithm

    @classmethod
    async def of(cls, reader: Reader, token: Token, key: str = PURPOSE) -> ServiceSealer:
        """Return the sealer for a service key. Raises `StoreUnavailable` if `kmsd init` has not been run."""
        service_key = (await reader.service_keys()).get(key)
        if service_key is None or service_key.algorithm is None:
            raise StoreUnavailable(f"the store names no {key} key: run `kmsd init`")
        return cls(token, service_key.object_id, service_key.algorithm)

    async def encrypt(self, purpose: str, subject: str, content: bytes) -> bytes:
        """Encrypt `content`, bound to a purpose (`access-key`) and a subject (the access key id)."""
        head = _VERSION + bytes((self.algorithm,))
        aad = head + encryption_context.canonical({"purpose": purpose, "subject": subject})
        return head + await self.token.encrypt(self.object_id, self.algorithm, content, aad)

    async def decrypt(self, purpose: str, subject: str, sealed: bytes) -> bytes:
        """Return the content. Raises `NotAuthentic` unless this daemon sealed it for this purpose and subject."""
        head, rest = sealed[:2], sealed[2:]
        if head != _VERSION + bytes((self.algorithm,)) or len(rest) < self.algorithm.nonce_length + TAG_LENGTH:
            raise NotAuthentic("not a sealed text of this daemon")
        aad = head + encryption_context.canonical({"purpose": purpose, "subject": subject})
        return await self.token.decrypt(self.object_id, self.algorithm, rest, aad)
