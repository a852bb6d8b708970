"""Port of the store: promises of reading and writing. Parts of it are in `identities`, `domain_keys` and `nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kmsd.ports.domain_keys import DomainKeyReader, DomainKeyWriter
from kmsd.ports.identities import IdentityReader, IdentityWriter
from kmsd.ports.nodes import NodeReader, NodeWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from kmsd.domain.alias import Alias
    from kmsd.domain.grant import Grant
    from kmsd.domain.key import Key
    from kmsd.domain.key_import import ImportedMaterial, WrappingKey
    from kmsd.domain.key_usage import KeyUse
    from kmsd.domain.material import Material, MaterialStatus
    from kmsd.ports.counters import StoreCounters
    from kmsd.ports.store_records import (
        DueKind,
        KindOfMaterial,
        ServiceKey,
        SessionMac,
        SharedPolicy,
        TokenObject,
    )


class Reader(IdentityReader, DomainKeyReader, NodeReader, Protocol):
    """Read access to the store, for one request. Raises `StoreUnavailable` if the store cannot be read."""

    async def key(self, key_id: str) -> Key | None:
        """Return a key with its materials, also if its deletion is due and not yet performed."""
        ...

    async def kinds_of_material(self) -> Mapping[KindOfMaterial, int]:
        """Return how much key material of each kind there is. Reads all of it: not for the request path."""
        ...

    async def policies_after(self, key_id: str, count: int, now: datetime) -> tuple[str, Sequence[SharedPolicy]]:
        """Return the policies of the `count` keys after `key_id`, each once, and the id of the last of these keys.

        Of all accounts, and only of keys that exist at `now`. The id is empty if there are no further keys. To go
        through all keys: not for the request path.
        """
        ...

    async def grants_for(self, grantee: str, count: int, now: datetime) -> Sequence[Grant]:
        """Return at most `count` grants with this grantee principal, on any key that exists at `now`.

        May read all grants: not for the request path.
        """
        ...

    async def key_ids(self) -> frozenset[str]:
        """Return the ids of all keys, also of those whose deletion is due. Not for the request path."""
        ...

    async def key_names_after(self, account: str, key_id: str, count: int, now: datetime) -> Sequence[tuple[str, str]]:
        """Return (key id, ARN) of at most `count` keys of an account, sorted by key id, after `key_id`.

        Only keys that exist at `now`.
        """
        ...

    async def count_keys(self, account: str) -> int:
        """Return the number of keys of an account, including those pending deletion."""
        ...

    async def alias(self, account: str, name: str) -> Alias | None:
        """Return an alias by its name (with prefix)."""
        ...

    async def aliases_after(
        self, account: str, name: str, count: int, *, now: datetime, key_id: str | None = None
    ) -> Sequence[Alias]:
        """Return at most `count` aliases of an account, sorted by name, after `name`; of one key only, if given.

        Only aliases of keys that exist at `now`.
        """
        ...

    async def count_aliases(self, key_id: str) -> int:
        """Return the number of aliases of a key."""
        ...

    async def tags_of(self, key_id: str) -> Mapping[str, str]:
        """Return the tags of a key."""
        ...

    async def grant(self, grant_id: str) -> Grant | None:
        """Return a grant by its id."""
        ...

    async def grants_to(self, key_id: str, grantees: Sequence[str]) -> Sequence[Grant]:
        """Return the grants on a key with one of `grantees` as grantee principal."""
        ...

    async def grants_of(
        self, key_id: str, after: str, count: int, *, grant_id: str | None = None, grantee: str | None = None
    ) -> Sequence[Grant]:
        """Return at most `count` grants on a key, sorted by id, after `after`; only of an id or grantee, if given."""
        ...

    async def grants_named(self, key_id: str, name: str) -> Sequence[Grant]:
        """Return the grants on a key that have this name."""
        ...

    async def grants_retirable_by(self, principal: str, after: str, count: int, now: datetime) -> Sequence[Grant]:
        """Return at most `count` grants with `principal` as retiring principal, after `after`.

        Only grants on keys that exist at `now`.
        """
        ...

    async def count_grants(self, key_id: str) -> int:
        """Return the number of grants on a key."""
        ...

    async def rotations_of(self, key_id: str) -> Sequence[Material]:
        """Return the key's materials that are not destroyed, oldest first."""
        ...

    async def keys_due(self, job: DueKind, now: datetime, count: int) -> Sequence[str]:
        """Return the ids of at most `count` keys for which `job` is due at `now`, longest due first."""
        ...

    async def next_due(self, job: DueKind) -> datetime | None:
        """Return the time at which `job` is next due for any key."""
        ...

    async def service_keys(self) -> Mapping[str, ServiceKey]:
        """Return the daemon's own token objects, by purpose."""
        ...

    async def session_mac(self) -> SessionMac:
        """Return the key that authenticates session tokens."""
        ...

    async def token_object(self, object_id: bytes) -> TokenObject | None:
        """Return the row of a token object, or of wrapped material."""
        ...

    async def token_objects(self, *statuses: MaterialStatus) -> Sequence[TokenObject]:
        """Return all token objects with these statuses; with any status, if none is given. No wrapped material."""
        ...

    async def public_keys(self) -> Mapping[bytes, bytes]:
        """Return the stored public key of every pair in the token, by material id."""
        ...

    async def worn_keys(self, messages: int) -> Sequence[str]:
        """Return the ids of enabled keys with generated material whose current material has counted `messages`."""
        ...

    async def counted_messages(self, at_least: int) -> Sequence[tuple[bytes, str, int]]:
        """Return object id, owner and count of all objects with at least so many messages."""
        ...

    async def wrapping_key(self, object_id: bytes) -> WrappingKey | None:
        """Return a wrapping key, issued or in the pool; None once it is marked for destruction."""
        ...

    async def wrapping_keys(self) -> Sequence[WrappingKey]:
        """Return all wrapping keys, oldest first."""
        ...

    async def imported_materials(self, key_id: str) -> Sequence[ImportedMaterial]:
        """Return the records of a key's imported materials in the order of their first import, deleted ones too."""
        ...

    async def key_use(self, key_id: str) -> KeyUse | None:
        """Return the last use of a key; None if none is recorded."""
        ...

    async def usage_tracked_since(self) -> datetime:
        """Return the time from which on uses of keys are recorded."""
        ...


class Transaction(Reader, IdentityWriter, DomainKeyWriter, NodeWriter, Protocol):
    """Changes that become durable together, or not at all. Reads see the transaction's own writes.

    Each change of a state names the old state and raises `StoreConflict` if the store holds another. Insertions and
    deletions conflict in the same way. The method itself raises the conflict, never the commit, because the audit
    record of the call is written in between. A transaction in which a method has raised is rolled back.

    Transactions of all processes are serialised: rows that one has read cannot be changed by another before it ends. An
    adapter whose database does not lock on reading (READ COMMITTED) first locks the single writer's row.
    """

    def finish(self) -> None:
        """Declare that the block runs no more statements, and only waits: for its record.

        The store may then run another transaction, which sees these changes, and commit both together. If the block
        raises afterwards, both are rolled back. Raises `StoreUnavailable` if this one cannot be committed any more.
        """
        ...

    async def insert_token_object(self, token_object: TokenObject) -> None:
        """Insert the row of a token object: the intent. Raises `StoreConflict` if the id is known."""
        ...

    async def set_object_status(self, object_id: bytes, old: MaterialStatus, new: MaterialStatus) -> None:
        """Change the status from `old` to `new` (compare-and-swap)."""
        ...

    async def reserve_messages(self, object_id: bytes, count: int) -> int:
        """Add to the messages counted for an object; return the new total. Raises `StoreConflict` if it is unknown."""
        ...

    async def delete_token_object(self, object_id: bytes, old: MaterialStatus) -> None:
        """Delete the row of an object that is destroyed or was never used (compare-and-swap on its status)."""
        ...

    async def insert_service_key(self, service_key: ServiceKey) -> None:
        """Insert a service key; its object must be known. Raises `StoreConflict` if the purpose is taken."""
        ...

    async def publish_audit_key(self, public_key: bytes) -> None:
        """Store the public half of this node's audit key, for the nodes of other HSMs. What is there stays."""
        ...

    async def set_session_mac(self, sealed: bytes, old: bytes | None = None) -> None:
        """Store the sealed MAC key in place of `old` (compare-and-swap); None: there is none yet."""
        ...

    async def insert_key(self, key: Key) -> None:
        """Insert a key without its materials. Raises `StoreConflict` if the id is taken."""
        ...

    async def update_key(self, old: Key, new: Key) -> None:
        """Replace all columns of a key; the stored state and deletion date must still be those of `old`."""
        ...

    async def insert_material(self, key_id: str, material: Material) -> None:
        """Insert a material of an existing key, with its wrapped form; the row of its object must exist.

        Raises `StoreConflict` if the domain key that wraps it is destroyed.
        """
        ...

    async def delete_key(self, key_id: str) -> None:
        """Delete a key with its materials' rows, aliases, grants and tags. The rows of its token objects stay.

        Raises `StoreConflict` if there is none.
        """
        ...

    async def delete_material(self, material_id: bytes) -> None:
        """Delete the row of a material. The row of its token object stays."""
        ...

    async def put_imported_material(self, key_id: str, imported: ImportedMaterial) -> None:
        """Store the record of an imported material, which never changes to other material or another key.

        Raises `StoreConflict` if the key has the same material under another id, if another of its materials has the
        state CURRENT or PENDING_ROTATION that `imported` would get, or if the id is that of other material.
        """
        ...

    async def delete_imported_material(self, material_id: bytes) -> None:
        """Delete the record of a material that the key has never used. Raises `StoreConflict` if there is none."""
        ...

    async def insert_wrapping_key(self, wrapping_key: WrappingKey) -> None:
        """Insert a wrapping key; its object must be known."""
        ...

    async def assign_wrapping_key(self, object_id: bytes, key_id: str, expires_at: datetime) -> None:
        """Assign a wrapping key from the pool. Raises `StoreConflict` if it is not in the pool."""
        ...

    async def count_import_failure(self, object_id: bytes) -> int:
        """Count a failed import and return the total. Raises `StoreConflict` if the wrapping key is being destroyed."""
        ...

    async def delete_wrapping_key(self, object_id: bytes) -> None:
        """Delete a wrapping key's row. The row of its token object stays. Raises `StoreConflict` if there is none."""
        ...

    async def insert_alias(self, alias: Alias) -> None:
        """Insert an alias. Raises `StoreConflict` if the name is taken."""
        ...

    async def point_alias(self, alias: Alias, key_id: str, now: datetime) -> None:
        """Point an alias to another key. It must still point to the key in `alias`."""
        ...

    async def delete_alias(self, alias: Alias) -> None:
        """Delete an alias. Raises `StoreConflict` if there is none."""
        ...

    async def insert_grant(self, grant: Grant) -> None:
        """Insert a grant. Raises `StoreConflict` if the id is taken."""
        ...

    async def delete_grant(self, grant_id: str) -> None:
        """Delete a grant. Raises `StoreConflict` if there is none."""
        ...

    async def acquire_lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        """Acquire or renew the lease `name` for `holder`. Return True if `holder` has it.

        A lease is free if it has expired at `now`, or if its holder has exited and the store can detect this. A lease
        that ends later than any that could be acquired now is also free: the clock has been set back since. A database
        of several hosts judges by its own clock; then `until - now` alone counts.
        """
        ...

    async def release_lease(self, name: str, holder: str) -> None:
        """Release the lease `name`, if `holder` has it."""
        ...

    async def put_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a key, replacing those of the same keys."""
        ...

    async def delete_tags(self, key_id: str, tag_keys: Sequence[str]) -> None:
        """Remove tags from a key. Absent tags are no error."""
        ...

    async def put_key_uses(self, uses: Sequence[KeyUse]) -> None:
        """Record uses of keys. A later recorded use stays, and a key that is not in the store is passed over."""
        ...


class Store(Protocol):
    """The daemon's database. Durable and consistent across processes, with one writer at a time.

    A reader returns the same `Key`, `User`, `Role` and `AccessKey` object until the row changes, and never modifies it.
    Callers cache by identity (`kmsd.operations.admission`).
    """

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Register `notify`, called with the id of each object or material that any process marks as `destroying`.

        The first `read` that sees the mark returns afterwards: keys made from it must be evicted by then.
        """
        ...

    @property
    def cache_use(self) -> tuple[int, int]:
        """Hits and misses of the cache, for metrics."""
        ...

    @property
    def counters(self) -> StoreCounters:
        """Counters of the use of a database server, for metrics."""
        ...

    async def read(self) -> Reader:
        """Return a reader of what all processes have committed, never older than this call."""
        ...

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Start a transaction: committed and durable when the block ends, rolled back if it raises.

        Raises `StoreUnavailable` if the store cannot be locked or written. The commit never raises `StoreConflict`.
        """
        ...

    async def check(self) -> None:
        """Verify that the store can be written. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Close the store. Committed changes stay."""
        ...
