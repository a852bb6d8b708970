"""Cache of the handles of the daemon's objects in the token, found by CKA_ID.

Each login has its own cache. It is filled by one listing at login, by a search for the id on a miss (C_FindObjects is
linear in SoftHSM: 18 ms at 1,000 objects), and by another listing when misses come close together. An entry ends with
the login, by `invalidate`, and when the token calls the handle invalid. A search that finds nothing is not cached.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import msgspec
from pkcs11 import Attribute, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.templates import KINDS, OBJECT_ID_LENGTH
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool
    from kmsd.adapters.pkcs11.softhsm_generation import SoftHsmGeneration

_RESEARCH_INTERVAL_SECONDS = 5.0
"""Seconds between two misses below which a listing follows: another process has created several keys."""


class NotFound(CkrError):
    """The token found no object with this CKA_ID."""

    def __init__(self, what: str) -> None:
        super().__init__(Ckr.OBJECT_HANDLE_INVALID, f"search by CKA_ID for {what}")


class Entry(msgspec.Struct):
    """Cache entry of one object id."""

    handle: int = 0
    """Handle of the secret or private object; 0 if unknown."""
    public: int = 0
    """Handle of the public half of a pair; 0 if unknown."""
    subkey: bytes | None = None
    """XAES-256-GCM's K1 of this object, once derived."""


class Handles:
    """Handles, valid in one login, of the objects that carry the daemon's label."""

    def __init__(self, connection: SessionPool, label: str, generation: SoftHsmGeneration, *, patience: float) -> None:
        self._connection = connection
        self._generation = generation
        self._patience = patience
        self._raw = connection.raw
        self._label = label
        self._label_bytes = label.encode("ascii")
        self._entries: dict[bytes, Entry] = {}
        self.hits = 0
        self.misses = 0
        self._missed_at = float("-inf")

    def _search_lock(self) -> AbstractContextManager[None]:
        return self._connection.module.catalogue(self._patience)

    def _find(self, session: Session, template: Mapping[int, Value]) -> Sequence[int]:
        """Return the matching handles; if none match, have SoftHSM reread its folder and search again.

        The caller holds `Module.catalogue`.
        """
        found = self._raw.find(session.handle, template)
        if not found and self._generation.bump():
            found = self._raw.find(session.handle, template)
        return found

    def fill(self, session: Session) -> None:
        """Cache the handles of all well-formed objects of the label, by one listing."""
        with self._search_lock():
            self._entries = self._find_all(session, frozenset())

    def _index(self, session: Session) -> None:
        """Add the objects that other processes have created since: one listing costs as much as one search."""
        with self._search_lock():
            known = frozenset(handle for entry in self._entries.values() for handle in (entry.handle, entry.public))
            for object_id, entry in self._find_all(session, known).items():
                self._entries.setdefault(object_id, entry)

    def _find_all(self, session: Session, known: frozenset[int]) -> dict[bytes, Entry]:
        """Return the objects of the label whose handles are not known, by id."""
        seen: dict[bytes, Entry] = {}
        doubtful: set[bytes] = set()
        for handle in self._raw.find(session.handle, {Attribute.LABEL: self._label_bytes}):
            if handle in known:
                continue
            values = self._read(session, handle, (Attribute.CLASS, Attribute.ID))
            object_id, kind = values.get(Attribute.ID, b""), number(values, Attribute.CLASS)
            if len(object_id) != OBJECT_ID_LENGTH or kind not in KINDS:
                continue
            entry = seen.setdefault(object_id, Entry())
            if kind == ObjectClass.PUBLIC_KEY:
                doubtful.update({object_id} if entry.public else ())
                entry.public = handle
            else:
                doubtful.update({object_id} if entry.handle else ())
                entry.handle = handle
        # Leave ids with two objects of a kind to `entry`, which searches and raises.
        return {object_id: entry for object_id, entry in seen.items() if object_id not in doubtful}

    def _read(self, session: Session, handle: int, kinds: Sequence[Attribute]) -> dict[int, bytes]:
        """Return attributes of an object; none if it is half-written or has been destroyed meanwhile."""
        try:
            return self._raw.attributes(session.handle, handle, kinds)
        except CkrError as error:
            if error.rv in (Ckr.OBJECT_HANDLE_INVALID, Ckr.GENERAL_ERROR, Ckr.FUNCTION_FAILED, Ckr.DEVICE_ERROR):
                return {}
            raise

    def known(self, object_id: bytes) -> Entry | None:
        """Return the cached entry of the id, without asking the token."""
        return self._entries.get(object_id)

    def entry(self, session: Session, object_id: bytes) -> Entry:
        """Return the handles of an id that has a secret or private object. Raises `NotFound`."""
        entry = self._entries.get(object_id)
        if entry is not None and entry.handle:
            self.hits += 1
            return entry
        self.misses += 1
        entry = self._search(session, object_id)
        if not entry.handle:
            raise NotFound(object_id.hex())
        self._entries[object_id] = entry
        now = time.monotonic()
        if now - self._missed_at < _RESEARCH_INTERVAL_SECONDS:
            self._index(session)
        self._missed_at = now
        return entry

    def _search(self, session: Session, object_id: bytes) -> Entry:
        with self._search_lock():
            entry = Entry()
            for handle in self._find(session, {Attribute.ID: object_id}):
                kind = number(self._read(session, handle, (Attribute.CLASS,)), Attribute.CLASS)
                if kind not in KINDS:
                    continue
                if entry.public if kind == ObjectClass.PUBLIC_KEY else entry.handle:
                    raise TokenError(f"more than one object has the id {object_id.hex()}")
                if kind == ObjectClass.PUBLIC_KEY:
                    entry.public = handle
                else:
                    entry.handle = handle
            return entry

    def invalidate(self, object_id: bytes) -> None:
        """Drop the cached entry of the id."""
        self._entries.pop(object_id, None)
