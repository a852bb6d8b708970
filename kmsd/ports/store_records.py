"""Errors of the store, and its records for the daemon itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from kmsd.domain.material import TokenName

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.key_spec import KeySpec, KeyUsage
    from kmsd.domain.material import Algorithm, KeyReference, MaterialStatus, WrappedMaterial


class StoreError(Exception):
    """The store did not perform the operation. Nothing was changed."""


class StoreUnavailable(StoreError):
    """The store cannot be read or written now. It may recover."""


class StoreMissing(StoreUnavailable):
    """There is no database. Its file system may be mounted later, or `kmsd init` has not been run."""


class StoreUnfit(StoreUnavailable):
    """The database is damaged, belongs to another program, or has another release's schema. Waiting does not help."""


class StoreTimeout(StoreUnavailable):
    """Another process held the store's lock for too long. A retry will succeed."""


class TextRefused(StoreError):
    """The database cannot hold a text: it contains U+0000. The message is for the client."""

    def __init__(self) -> None:
        super().__init__("A text contains the character U+0000, which the database of this service cannot hold.")


class StoreConflict(StoreError):
    """A row to be changed is no longer as it was read, or a row to be inserted exists already.

    The caller may repeat everything from the first read. The pipeline does so, a bounded number of times.
    """


class TokenObject(msgspec.Struct, frozen=True):
    """The store's row of a token object and its status: creating, ready, missing or destroying."""

    object_id: bytes
    owner: str
    """Owner, for logs and reports: `key:<id>`, `imported:<key id>`, `import:<key spec>`, `service:<purpose>`."""
    status: MaterialStatus
    created_at: datetime
    token: TokenName = TokenName.MAIN
    """The token that holds it."""
    owner_is_dead: bool = False
    """True if the process that wrote the row is certain to have exited."""
    is_wrapped: bool = False
    """True for material that is wrapped under a domain key: the token holds no object of this id."""


AUDIT = "audit"
"""Purpose of the service key that signs the audit trail."""


class ServiceKey(msgspec.Struct, frozen=True):
    """A key of the daemon itself: a token object, or wrapped material."""

    purpose: str
    """`sentinel`, `sealing`, `audit`; unique. That of an object in another node's HSM ends in `@` and its name."""
    object_id: bytes
    algorithm: Algorithm | None
    """None for the audit key, which signs."""
    wrapped: WrappedMaterial | None = None
    """None for a token object."""
    public_key: bytes | None = None
    """Public half of the audit key, DER SubjectPublicKeyInfo, once its node has published it."""

    @property
    def reference(self) -> KeyReference:
        """The key as its token finds it."""
        return self.wrapped or self.object_id


class SessionMac(msgspec.Struct, frozen=True):
    """The MAC key of session tokens, and the end of acceptance of session tokens without MAC."""

    sealed: bytes | None
    """MAC key, sealed under the service key. None: no session was issued yet."""
    older_until: datetime | None
    """Session tokens of releases without the MAC are accepted before this instant. None: never."""


class Node(msgspec.Struct, frozen=True):
    """A host that shares the database with others. Times are by the database's clock."""

    node_id: str
    name: str
    """Unique."""
    joined_at: datetime
    seen_at: datetime
    """Time at which one of its processes last said that it is alive."""
    version: str
    """Version of its kmsd, by the same process."""
    hsm: str = ""
    """The HSM that it uses. Empty: that of the first node."""


class NodeCheckpoint(msgspec.Struct, frozen=True):
    """Last signed checkpoint of one chain of a node's audit trail, as the node has published it."""

    node_id: str
    writer: str
    """Name of the chain."""
    sequence: int
    """Number of the line that was signed."""
    hash: str
    at: str
    """Time of the signature, as it was signed."""
    signature: str


class KindOfMaterial(msgspec.Struct, frozen=True):
    """A kind of key material."""

    spec: KeySpec
    usage: KeyUsage
    algorithm: Algorithm | None
    """Algorithm of its blobs; None for a key that encrypts none."""


class SharedPolicy(msgspec.Struct, frozen=True):
    """A key policy, and the keys of some that have it."""

    policy: str
    first_arn: str
    """ARN of one of them."""
    keys: int
    """Their number."""


class DueKind(StrEnum):
    """Kind of scheduled event of a key."""

    DELETION = "deletion"
    """A key's waiting period is over."""
    EXPIRY = "expiry"
    """Imported material is past its ValidTo."""
    ROTATION = "rotation"
    """An enabled key is due for automatic rotation."""
