"""The store: what reading and writing promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from kmsd.domain.alias import Alias
    from kmsd.domain.grant import Grant
    from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User
    from kmsd.domain.key import Key
    from kmsd.domain.key_import import ImportedMaterial, WrappingKey
    from kmsd.domain.material import Material, MaterialStatus
    from kmsd.domain.trusted_time import ClockSample
    from kmsd.ports.store_records import DueKind, ServiceKey, SessionMac, TokenObject


class Reader(Protocol):
    """What the store holds. A reader is used for one request and thrown away.

    Every method raises `StoreUnavailable` if the store cannot be read.
    """

    async def key(self, key_id: str) -> Key | None:
        """A key with its materials, also one whose deletion is due and not yet carried out."""
        ...

    async def key_names_after(self, account: str, key_id: str, count: int, now: datetime) -> Sequence[tuple[str, str]]:
        """(key id, ARN) of at most `count` keys of an account that exist at `now`, after `key_id`, in that order."""
        ...

    async def count_keys(self, account: str) -> int:
        """How many keys an account has, those pending deletion included."""
        ...

    async def alias(self, account: str, name: str) -> Alias | None:
        """An alias by its name (with prefix)."""
        ...

    async def aliases_after(
        self, account: str, name: str, count: int, *, now: datetime, key_id: str | None = None
    ) -> Sequence[Alias]:
        """At most `count` aliases of an account that sort after `name`, in that order; of one key only, if given.

        Of keys that exist at `now`.
        """
        ...

    async def count_aliases(self, key_id: str) -> int:
        """How many aliases point to a key."""
        ...

    async def tags_of(self, key_id: str) -> Mapping[str, str]:
        """The tags of a key."""
        ...

    async def grant(self, grant_id: str) -> Grant | None:
        """A grant by its id."""
        ...

    async def grants_to(self, key_id: str, grantees: Sequence[str]) -> Sequence[Grant]:
        """The grants on a key that name one of `grantees`."""
        ...

    async def grants_of(
        self, key_id: str, after: str, count: int, *, grant_id: str | None = None, grantee: str | None = None
    ) -> Sequence[Grant]:
        """At most `count` grants on a key whose ids sort after `after`, in that order; filtered, if asked."""
        ...

    async def grants_named(self, key_id: str, name: str) -> Sequence[Grant]:
        """The grants on a key that carry this name."""
        ...

    async def grants_retirable_by(self, principal: str, after: str, count: int, now: datetime) -> Sequence[Grant]:
        """At most `count` grants, on keys that exist at `now`, that name `principal` as retiring; after `after`."""
        ...

    async def count_grants(self, key_id: str) -> int:
        """How many grants a key has."""
        ...

    async def rotations_of(self, key_id: str) -> Sequence[Material]:
        """The key's materials that are not destroyed, the oldest first."""
        ...

    async def keys_due(self, job: DueKind, now: datetime, count: int) -> Sequence[str]:
        """Ids of at most `count` keys for which `job` is due at `now`, the longest due first."""
        ...

    async def next_due(self, job: DueKind) -> datetime | None:
        """When `job` is next due for any key."""
        ...

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        """A long-term credential with its user and the user's policies."""
        ...

    async def user(self, account: str, name: str) -> User | None:
        """A user with its policies."""
        ...

    async def users(self) -> Sequence[User]:
        """All users, by account and name."""
        ...

    async def access_keys_of(self, account: str, user_name: str) -> Sequence[AccessKey]:
        """The credentials of one user."""
        ...

    async def role(self, account: str, name: str) -> Role | None:
        """A role with its policies."""
        ...

    async def roles(self) -> Sequence[Role]:
        """All roles, by account and name."""
        ...

    async def service_keys(self) -> Mapping[str, ServiceKey]:
        """The daemon's own token objects, by purpose."""
        ...

    async def session_mac(self) -> SessionMac:
        """Return the key that authenticates session tokens."""
        ...

    async def token_object(self, object_id: bytes) -> TokenObject | None:
        """What the store knows of one object."""
        ...

    async def token_objects(self, *statuses: MaterialStatus) -> Sequence[TokenObject]:
        """All token objects of these statuses; of every status, if none is given."""
        ...

    async def worn_keys(self, messages: int) -> Sequence[str]:
        """Ids of enabled keys with generated material for whose current material so many messages were counted."""
        ...

    async def counted_messages(self, at_least: int) -> Sequence[tuple[bytes, str, int]]:
        """Object id, owner and count of all objects for which so many messages were counted."""
        ...

    async def wrapping_key(self, object_id: bytes) -> WrappingKey | None:
        """A wrapping key that is promised to somebody or in stock; None once it is doomed."""
        ...

    async def wrapping_keys(self) -> Sequence[WrappingKey]:
        """All of them, the oldest first."""
        ...

    async def imported_material(self, key_id: str) -> ImportedMaterial | None:
        """What was imported into a key first, whether or not it is there now."""
        ...

    async def clock_reading(self) -> ClockSample | None:
        """What is believed of the time of day; None: nobody has looked yet."""
        ...


class Transaction(Reader, Protocol):
    """Changes that become durable together, or not at all. Reads see the transaction's own writes.

    Each change of a state names the old one and raises `StoreConflict` if that is not what the store holds. What is
    inserted or deleted conflicts in the same way. A conflict is raised by the method that meets it and never by the end
    of the transaction, because the record of the call is written in between. Nothing is kept of a transaction in which
    a method has raised.

    Transactions of all processes run one after the other: what one has read cannot be changed by another before it
    ends. An adapter whose database does not lock on reading (READ COMMITTED) takes the one writer's row first.
    """

    async def insert_account(self, account: str, now: datetime) -> None:
        """Note an account; one that exists is left as it is."""
        ...

    async def insert_user(self, user: User) -> None:
        """Raises `StoreConflict` if the name is taken."""
        ...

    async def delete_user(self, account: str, name: str) -> None:
        """With its access keys and policies. Raises `StoreConflict` if there is none."""
        ...

    async def put_user_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        """Replace the inline policies of a user. Raises `StoreConflict` if there is none."""
        ...

    async def insert_role(self, role: Role) -> None:
        """Raises `StoreConflict` if the name is taken."""
        ...

    async def put_role_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        """Replace the inline policies of a role. Raises `StoreConflict` if there is none."""
        ...

    async def put_trust_policy(self, account: str, name: str, trust_policy: str) -> None:
        """Raises `StoreConflict` if there is no such role."""
        ...

    async def delete_role(self, account: str, name: str) -> None:
        """With its policies; its sessions end. Raises `StoreConflict` if there is none."""
        ...

    async def insert_access_key(self, access_key: AccessKey) -> None:
        """Raises `StoreConflict` if the id is taken."""
        ...

    async def set_access_key_status(self, access_key_id: str, status: AccessKeyStatus) -> None:
        """Raises `StoreConflict` if there is none."""
        ...

    async def delete_access_key(self, access_key_id: str) -> None:
        """Raises `StoreConflict` if there is none."""
        ...

    async def insert_token_object(self, token_object: TokenObject) -> None:
        """An intent. Raises `StoreConflict` if the id is known."""
        ...

    async def set_object_status(self, object_id: bytes, old: MaterialStatus, new: MaterialStatus) -> None:
        """Compare and swap."""
        ...

    async def reserve_messages(self, object_id: bytes, count: int) -> int:
        """Add to the messages counted for an object; return the new total. Raises `StoreConflict` if it is unknown."""
        ...

    async def delete_token_object(self, object_id: bytes, old: MaterialStatus) -> None:
        """Drop the row of an object that is gone or was never promised. Compare and swap on its status."""
        ...

    async def insert_service_key(self, service_key: ServiceKey) -> None:
        """Its object must be known. Raises `StoreConflict` if the purpose is taken."""
        ...

    async def set_session_mac(self, sealed: bytes) -> None:
        """Store the sealed key. Raises `StoreConflict` if there is one."""
        ...

    async def insert_key(self, key: Key) -> None:
        """A new key, without its materials. Raises `StoreConflict` if the id is taken."""
        ...

    async def update_key(self, old: Key, new: Key) -> None:
        """Replace all columns of a key; the stored state and deletion date must still be those of `old`."""
        ...

    async def insert_material(self, key_id: str, material: Material) -> None:
        """A material of an existing key; its object must be known."""
        ...

    async def delete_key(self, key_id: str) -> None:
        """With its materials' rows, aliases, grants and tags; its token objects' rows stay. `StoreConflict` if gone."""
        ...

    async def delete_material(self, material_id: bytes) -> None:
        """Drop the row of a material; its token object's row stays."""
        ...

    async def put_imported_material(self, key_id: str, imported: ImportedMaterial) -> None:
        """Remember what was imported into a key; its material never becomes another.

        Raises `StoreConflict` if the key has other material.
        """
        ...

    async def insert_wrapping_key(self, wrapping_key: WrappingKey) -> None:
        """Its object must be known."""
        ...

    async def assign_wrapping_key(self, object_id: bytes, key_id: str, expires_at: datetime) -> None:
        """Give out a wrapping key that is in stock. Raises `StoreConflict` if it is not."""
        ...

    async def count_import_failure(self, object_id: bytes) -> int:
        """One more failed import; how many there are now. Raises `StoreConflict` if the wrapping key is doomed."""
        ...

    async def delete_wrapping_key(self, object_id: bytes) -> None:
        """Drop the row of a wrapping key; its token object's row stays. Raises `StoreConflict` if there is none."""
        ...

    async def insert_alias(self, alias: Alias) -> None:
        """Raises `StoreConflict` if the name is taken."""
        ...

    async def point_alias(self, alias: Alias, key_id: str, now: datetime) -> None:
        """Let an alias name another key; it must still name the one of `alias`."""
        ...

    async def delete_alias(self, alias: Alias) -> None:
        """Raises `StoreConflict` if there is none."""
        ...

    async def insert_grant(self, grant: Grant) -> None:
        """Raises `StoreConflict` if the id is taken."""
        ...

    async def delete_grant(self, grant_id: str) -> None:
        """Raises `StoreConflict` if there is none."""
        ...

    async def acquire_lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        """Hold `name` until an instant: if it is free, expired at `now`, or held by `holder` already. Whether it is.

        The lease of a process that has ended is free, where the store can tell that it has.
        A lease that ends later than any that could be taken now was taken by a clock that has been set back since: it
        is free.
        """
        ...

    async def release_lease(self, name: str, holder: str) -> None:
        """Free `name`, if `holder` holds it."""
        ...

    async def put_clock_reading(self, reading: ClockSample) -> None:
        """Replace what is believed of the time of day."""
        ...

    async def put_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a key, replacing those of the same keys."""
        ...

    async def delete_tags(self, key_id: str, tag_keys: Sequence[str]) -> None:
        """Remove tags from a key; absent ones are no error."""
        ...


class Store(Protocol):
    """The daemon's records. Durable and consistent across processes; one writer at a time.

    A reader returns the same `Key`, `User`, `Role` and `AccessKey` object until the row changes, and never changes an
    object that it has returned: callers cache by identity (`kmsd.operations.decision_cache`).
    """

    def on_object_destroying(self, notify: Callable[[bytes], None]) -> None:
        """Have `notify` called with the id of each token object that any process marks as being destroyed.

        It is called before the `read` that first sees the mark returns: keys derived from the object must be gone then.
        """
        ...

    @property
    def cache_use(self) -> tuple[int, int]:
        """Return the hits and misses of the cache, for metrics."""
        ...

    async def read(self) -> Reader:
        """What is committed, by whichever process: never older than the moment of this call."""
        ...

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction: committed, and durable, when the block ends; rolled back if it raises.

        Raises `StoreUnavailable` if the store cannot be locked or written; at its end never `StoreConflict`.
        """
        ...

    async def check(self) -> None:
        """Prove that the store can be written. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Close it; what is committed stays."""
        ...
