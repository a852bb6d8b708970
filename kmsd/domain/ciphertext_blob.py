"""Format of ciphertext blobs, which `Encrypt` returns and `Decrypt` accepts (docs/ciphertext.md)."""

from __future__ import annotations

import msgspec

from kmsd.domain import encryption_context
from kmsd.domain.encryption_context import EncryptionContext
from kmsd.domain.material import TAG_LENGTH, Algorithm

VERSION = 1
"""First byte of every blob. Append only: a number never changes its meaning."""

HEADER_LENGTH = 34
_NO_CONTEXT = encryption_context.canonical({})
_ALGORITHMS = {int(algorithm): algorithm for algorithm in Algorithm}


class MalformedBlob(ValueError):
    """The bytes are not a blob of any released version."""


class Blob(msgspec.Struct, frozen=True):
    """A parsed blob. Nothing in it is trusted before the token has authenticated it."""

    head: bytes
    """The header as bytes, see `header`."""

    algorithm: Algorithm
    key_id: str
    material_id: bytes
    sealed: bytes
    """Nonce, ciphertext, tag."""

    def encode(self) -> bytes:
        """Return the bytes of the blob."""
        return self.head + self.sealed


def header(algorithm: Algorithm, key_id: str, material_id: bytes) -> bytes:
    """Return the header: version, algorithm, key id (16 bytes of the UUID), material id (16 bytes)."""
    return bytes((VERSION, algorithm)) + bytes.fromhex(key_id.replace("-", "")) + material_id


def associated_data(head: bytes, context: EncryptionContext) -> bytes:
    """Return the additional authenticated data: the header and the canonical encryption context.

    The nonce follows the header but is not included here. GCM authenticates the nonce by construction; so does XAES,
    whose derived key depends on its first half. A token that generates the nonce returns it only afterwards.
    """
    return head + (encryption_context.canonical(context) if context else _NO_CONTEXT)


def parse(data: bytes) -> Blob:
    """Parse a blob. Raises `MalformedBlob`."""
    if len(data) < HEADER_LENGTH or data[0] != VERSION:
        raise MalformedBlob("not a blob of a known version")
    algorithm = _ALGORITHMS.get(data[1])
    if algorithm is None:
        raise MalformedBlob("unknown algorithm")
    if len(data) < HEADER_LENGTH + algorithm.nonce_length + TAG_LENGTH:
        raise MalformedBlob("too short")
    key_id = data[2:18].hex()
    return Blob(
        data[:HEADER_LENGTH],
        algorithm,
        f"{key_id[:8]}-{key_id[8:12]}-{key_id[12:16]}-{key_id[16:20]}-{key_id[20:]}",
        data[18:HEADER_LENGTH],
        data[HEADER_LENGTH:],
    )
