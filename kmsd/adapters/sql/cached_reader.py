"""Cache of the store in one process, and its invalidation.

Before each request the adapter makes sure that nothing was committed since, by this process or another. If something
was, the new rows of the table `change`, which triggers fill, name what is invalid:

    a key id       the key, its grants and tags
    alias          all aliases
    identity       all credentials, users and roles
    service        the service keys
    logs           all log groups and streams
    domain-key     the domain keys, and all keys
    object:<id>    a token object that is being destroyed: `on_object_destroying` is called, so that keys derived from
                   it are invalidated too

If rows were trimmed before they were read, everything is invalid. Absent rows are not cached. Each kind is bounded; the
oldest entry is evicted first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kmsd.adapters.sql.reader import SqlReader
from kmsd.adapters.sql.row_mapping import Row
from kmsd.cloudwatch_logs.groups import LogGroup, LogStream
from kmsd.domain.alias import Alias
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.grant import Grant
from kmsd.domain.identity import AccessKey, Role
from kmsd.domain.key import Key
from kmsd.ports import ServiceKey, SessionMac

MAX_KEYS = 20_000
MAX_OTHERS = 20_000

_Name = TypeVar("_Name")
_Thing = TypeVar("_Thing")


class CachedReader(SqlReader):
    """Implements `kmsd.ports.Reader` with a cache. The adapter calls `_apply` before each request."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0
        """Last change that was invalidated."""
        self._generation = 0
        """Number of invalidations. What was read before one is not cached after it."""
        self._keys: dict[str, Key] = {}
        self._grants_by_key: dict[str, dict[tuple[str, ...], Sequence[Grant]]] = {}
        self._tags: dict[str, Mapping[str, str]] = {}
        self._aliases: dict[tuple[str, str], Alias] = {}
        self._access_keys: dict[str, AccessKey] = {}
        self._roles: dict[tuple[str, str], Role] = {}
        self._service_keys: Mapping[str, ServiceKey] | None = None
        self._session_mac: SessionMac | None = None
        self._domain_keys: Sequence[DomainKey] | None = None
        self._log_groups: dict[tuple[str, str], LogGroup] = {}
        self._log_streams: dict[tuple[bytes, str], LogStream] = {}
        self.on_object_destroying: Callable[[bytes], None] = lambda _: None
        self.hits = 0
        self.misses = 0

    def _apply(self, changes: Sequence[Row], *, is_first: bool) -> None:
        """Invalidate what rows (seq, subject) of the table `change` name; everything, if some were trimmed unread."""
        if is_first or (changes and changes[0][0] != self._seen + 1):
            self._invalidate_all()
        for _, subject in changes:
            self._invalidate(subject)
        if changes:
            self._seen = changes[-1][0]
            self._generation += 1

    def _invalidate_all(self) -> None:
        self._generation += 1
        self._domain_keys = None
        for memory in (self._keys, self._grants_by_key, self._tags, self._aliases, self._access_keys, self._roles):
            memory.clear()
        self._service_keys = self._session_mac = None
        self._log_groups.clear()
        self._log_streams.clear()

    def _invalidate(self, subject: str) -> None:
        match subject:
            case "alias":
                self._aliases.clear()
            case "identity":
                self._access_keys.clear()
                self._roles.clear()
            case "service":
                self._service_keys = self._session_mac = None
            case "logs":
                self._log_groups.clear()
                self._log_streams.clear()
            case "domain-key":
                self._domain_keys = None
                self._keys.clear()
            case destroying if destroying.startswith("object:"):
                self.on_object_destroying(bytes.fromhex(destroying.removeprefix("object:")))
            case key_id:
                self._keys.pop(key_id, None)
                self._grants_by_key.pop(key_id, None)
                self._tags.pop(key_id, None)

    def _remember(self, memory: dict[_Name, _Thing], name: _Name, thing: _Thing, most: int, began: int) -> None:
        """Cache what was read when `_generation` was `began`."""
        self.misses += 1
        if began != self._generation:
            return
        if len(memory) >= most:
            del memory[next(iter(memory))]
        memory[name] = thing

    async def key(self, key_id: str) -> Key | None:
        found = self._keys.get(key_id)
        if found is not None:
            self.hits += 1
            return found
        began = self._generation
        found = await super().key(key_id)
        if found is not None:
            self._remember(self._keys, key_id, found, MAX_KEYS, began)
        return found

    async def alias(self, account: str, name: str) -> Alias | None:
        found = self._aliases.get((account, name))
        if found is None:
            began = self._generation
            found = await super().alias(account, name)
            if found is not None:
                self._remember(self._aliases, (account, name), found, MAX_OTHERS, began)
        return found

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        found = self._access_keys.get(access_key_id)
        if found is None:
            began = self._generation
            found = await super().access_key(access_key_id)
            if found is not None:
                self._remember(self._access_keys, access_key_id, found, MAX_OTHERS, began)
        return found

    async def role(self, account: str, name: str) -> Role | None:
        found = self._roles.get((account, name))
        if found is None:
            began = self._generation
            found = await super().role(account, name)
            if found is not None:
                self._remember(self._roles, (account, name), found, MAX_OTHERS, began)
        return found

    async def tags_of(self, key_id: str) -> Mapping[str, str]:
        found = self._tags.get(key_id)
        if found is None:
            began = self._generation
            found = await super().tags_of(key_id)
            self._remember(self._tags, key_id, found, MAX_OTHERS, began)
        return found

    async def grants_to(self, key_id: str, grantees: Sequence[str]) -> Sequence[Grant]:
        names = tuple(grantees)
        by_grantees = self._grants_by_key.get(key_id)
        if by_grantees is None:
            began, by_grantees = self._generation, {}
            self._remember(self._grants_by_key, key_id, by_grantees, MAX_OTHERS, began)
        found = by_grantees.get(names)
        if found is None:
            began = self._generation
            found = await super().grants_to(key_id, names)
            self._remember(by_grantees, names, found, MAX_OTHERS, began)
        return found

    async def log_group(self, account: str, name: str) -> LogGroup | None:
        found = self._log_groups.get((account, name))
        if found is None:
            began = self._generation
            found = await super().log_group(account, name)
            if found is not None:
                self._remember(self._log_groups, (account, name), found, MAX_OTHERS, began)
        return found

    async def log_stream(self, group_id: bytes, name: str) -> LogStream | None:
        found = self._log_streams.get((group_id, name))
        if found is None:
            began = self._generation
            found = await super().log_stream(group_id, name)
            if found is not None:
                self._remember(self._log_streams, (group_id, name), found, MAX_OTHERS, began)
        return found

    async def domain_keys(self) -> Sequence[DomainKey]:
        known = self._domain_keys
        if known is None:
            began = self._generation
            known = await super().domain_keys()
            self._domain_keys = known if began == self._generation else None
        return known

    async def service_keys(self) -> Mapping[str, ServiceKey]:
        known = self._service_keys
        if known is None:
            began = self._generation
            known = await super().service_keys()
            self._service_keys = known if began == self._generation else None
        return known

    async def session_mac(self) -> SessionMac:
        known = self._session_mac
        if known is None:
            began = self._generation
            known = await super().session_mac()
            self._session_mac = known if began == self._generation else None
        return known
