"""Key material of a key: token objects, and material that is wrapped under a domain key."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID, uuid5

import msgspec

from kmsd.domain.key_spec import KeySpec, KeyUsage

if TYPE_CHECKING:
    from datetime import datetime


class Algorithm(IntEnum):
    """Encryption algorithm of a blob. Every blob contains the number: append only, never reuse (docs/ciphertext.md)."""

    nonce_length: int
    """Bytes of nonce that precede the ciphertext."""

    XAES_256_GCM = 1
    """C2SP XAES-256-GCM, 24-byte nonce; the token derives the message key."""
    AES_256_GCM = 2
    """NIST SP 800-38D AES-256-GCM, 12-byte nonce; for tokens that cannot derive."""
    AES_256_GCM_IV16 = 3
    """The same with a 16-byte nonce; for tokens that make the nonce themselves, and only of this length."""

    def __init__(self, number: int) -> None:
        """Find the length once: every decryption reads it."""
        self.nonce_length = {1: 24, 2: 12, 3: 16}[number]


TAG_LENGTH = 16
"""Bytes of the GCM tag at the end of every ciphertext."""


class MaterialStatus(StrEnum):
    """Status of a token object."""

    CREATING = "creating"
    READY = "ready"
    MISSING = "missing"
    """Was ready, but reconcile did not find the object in a healthy token. Raises an alarm; nothing is deleted."""
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class RotationType(StrEnum):
    """`RotationsListEntry.RotationType`."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


class TokenName(str):
    """Name of one of the daemon's tokens.

    The store's adapter names the tokens of this node's HSM as the configuration does, and those of another HSM
    `name@hsm`: no process of this node has such a token.
    """

    MAIN: ClassVar[TokenName]
    """`[token]`: holds the daemon's own keys, and every key that no further token serves."""
    IMPORT: ClassVar[TokenName]
    """`[import_token]`: unwraps what the main token cannot. It holds wrapping keys and nothing else."""

    __slots__ = ()

    @property
    def is_elsewhere(self) -> bool:
        """True for a token of another node's HSM."""
        return AT in self


AT = "@"
"""Separates the name of a token, or the purpose of a service key, from that of its HSM."""
TokenName.MAIN = TokenName("main")
TokenName.IMPORT = TokenName("import")


class OwnUsage(StrEnum):
    """Usage of wrapped keys of the daemon itself that no key of a client has."""

    IMPORT = "IMPORT"
    """RSA keys that unwrap key material from outside."""


class MaterialIdentity(msgspec.Struct, frozen=True):
    """Identity of wrapped material: the key that it belongs to, and its kind."""

    key_id: str
    """UUID in lower case."""
    material_id: bytes
    """16 random bytes."""
    spec: KeySpec
    usage: KeyUsage | OwnUsage
    algorithm: Algorithm | None
    """The algorithm of its blobs; None for a key that encrypts no blobs."""
    is_imported: bool

    @property
    def is_own(self) -> bool:
        """True for a key of the daemon itself. Its id is a hash, UUID version 5; those of clients' keys are random."""
        return UUID(self.key_id).version == 5  # noqa: PLR2004 (as above)


class WrappedMaterial(msgspec.Struct, frozen=True):
    """Key material wrapped under a domain key, and the MAC that binds it to its identity (docs/custody.md)."""

    identity: MaterialIdentity
    domain_key_id: bytes
    """CKA_ID of the domain key."""
    binding_key: bytes
    """The key of the MAC, wrapped under the domain key."""
    mechanism: int
    """CKM_… that wrapped the material."""
    content: bytes
    """The wrapped material."""
    mac: bytes
    """AES-CMAC of `bound_text`, 16 bytes."""
    public_key: bytes = b""
    """Public half of a key pair, DER SubjectPublicKeyInfo; empty for a secret key."""

    @property
    def material_id(self) -> bytes:
        """Id of the material."""
        return self.identity.material_id

    def bound_text(self) -> bytes:
        """Return the text of the MAC: everything but the MAC, each part with its length."""
        identity = self.identity
        parts = (
            bytes.fromhex(identity.key_id.replace("-", "")),
            identity.material_id,
            identity.spec.encode(),
            identity.usage.encode(),
            bytes((identity.algorithm or 0, identity.is_imported)),
            self.public_key,
            self.domain_key_id,
            self.mechanism.to_bytes(8, "big"),
            self.content,
        )
        return _BOUND + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


_BOUND = b"kmsd wrapped material 1"
_SERVICE_KEYS = UUID("6b6d7364-0000-5000-8000-7365727669e6")
"""Namespace of the ids to which the daemon's own wrapped keys are bound. Never change it."""


def service_identity(purpose: str, material_id: bytes, algorithm: Algorithm) -> MaterialIdentity:
    """Return what wrapped material of the daemon itself is bound to: an id that no key of a client has."""
    key_id = str(uuid5(_SERVICE_KEYS, purpose))
    kind = KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT
    return MaterialIdentity(key_id, material_id, *kind, algorithm, is_imported=False)


def wrapping_key_identity(object_id: bytes, bits: int) -> MaterialIdentity:
    """Return what a wrapped RSA key for imports is bound to."""
    key_id = str(uuid5(_SERVICE_KEYS, "import"))
    return MaterialIdentity(key_id, object_id, KeySpec(f"RSA_{bits}"), OwnUsage.IMPORT, None, is_imported=False)


KeyReference = bytes | WrappedMaterial
"""Key as a token finds it: the CKA_ID of an object, or wrapped material."""


class Material(msgspec.Struct, frozen=True):
    """One generation of a key: an object or key pair in the token, or wrapped material."""

    material_id: bytes
    """16 random bytes; CKA_ID of the object."""
    algorithm: Algorithm | None
    """The algorithm of its blobs; None for a key that encrypts no blobs (asymmetric and HMAC keys)."""
    status: MaterialStatus
    created_at: datetime
    rotation_type: RotationType | None = None
    """The rotation that created it; None for a key's first material."""
    token: TokenName = TokenName.MAIN
    """The token that holds the object."""
    public_key: bytes = b""
    """Public half of a key pair, DER SubjectPublicKeyInfo; empty for a secret key."""
    wrapped: WrappedMaterial | None = None
    """None for token objects."""

    @property
    def reference(self) -> KeyReference:
        """The material as its token finds it."""
        return self.wrapped or self.material_id

    @property
    def key_material_id(self) -> str:
        """`KeyMaterialId` of the API."""
        return key_material_id(self.material_id)


@lru_cache(maxsize=4096)
def key_material_id(material_id: bytes) -> str:
    """Return the `KeyMaterialId` of the API: 64 hexadecimal characters that reveal nothing of the material."""
    return sha256(b"kmsd KeyMaterialId" + material_id).hexdigest()
