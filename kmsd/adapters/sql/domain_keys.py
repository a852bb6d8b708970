"""Queries and statements about domain keys and wrapped material."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.access import SqlAccess
from kmsd.adapters.sql.row_mapping import Row
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key import Origin
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import (
    Algorithm,
    MaterialIdentity,
    TokenName,
    WrappedMaterial,
    service_identity,
    wrapping_key_identity,
)

_DOMAIN_KEY = "domain_key_id, token, state, binding_key, created_at, changed_at, missing"
_NOT_DESTROYED = "EXISTS (SELECT 1 FROM domain_key WHERE domain_key_id = ?1 AND state <> 'destroyed')"
"""Condition on the domain key of new wrapped material: it may have been destroyed since the material was wrapped."""


def _domain_key(row: Row) -> DomainKey:
    return DomainKey(
        domain_key_id=row[0],
        token=TokenName(row[1]),
        state=DomainKeyState(row[2]),
        binding_key=row[3],
        created_at=row_mapping.instant(row[4]),
        changed_at=row_mapping.instant(row[5]),
        is_missing=bool(row[6]),
    )


def _identity(row: Row) -> MaterialIdentity:
    """Return what wrapped material is bound to: a key, or a purpose of the daemon itself."""
    if row[9] is not None:
        return wrapping_key_identity(row[4], row[9])
    if row[7] is not None:
        return service_identity(row[7], row[4], Algorithm(row[8]))
    kind = row[0], KeySpec(row[1]), KeyUsage(row[2]), Origin(row[3])
    return row_mapping.identity(kind, material_id=row[4], algorithm=row[5])


class DomainKeyQueries(SqlAccess):
    """The part of the reader about domain keys."""

    async def domain_keys(self) -> Sequence[DomainKey]:
        found = await self._all(f"SELECT {_DOMAIN_KEY} FROM domain_key ORDER BY created_at, domain_key_id")
        return [_domain_key(row) for row in found]

    async def current_domain_key(self, token: TokenName) -> DomainKey | None:
        return next(
            (one for one in await self.domain_keys() if one.token == token and one.state is DomainKeyState.CURRENT),
            None,
        )

    async def domain_key_holders(self) -> Mapping[bytes, frozenset[str]]:
        holders: dict[bytes, set[str]] = {}
        for domain_key_id, hsm in await self._all("SELECT domain_key_id, hsm FROM domain_key_holder"):
            holders.setdefault(domain_key_id, set()).add(hsm)
        return {domain_key_id: frozenset(hsms) for domain_key_id, hsms in holders.items()}

    async def wrapped_counts(self) -> Mapping[bytes, int]:
        return dict(await self._all("SELECT domain_key_id, materials FROM domain_key_count"))

    async def wrapped_under(self, domain_key_id: bytes, after: bytes, count: int) -> Sequence[WrappedMaterial]:
        found = await self._all(
            "SELECT key.key_id, spec, usage, origin, wrapped_material.material_id, material.algorithm, "
            "coalesce(material.public_key, wrapping_key.public_key), purpose, service_key.algorithm, bits, "
            f"{row_mapping.WRAPPED_COLUMNS} "
            "FROM wrapped_material JOIN domain_key USING (domain_key_id) "
            "LEFT JOIN material USING (material_id) LEFT JOIN key ON key.key_id = material.key_id "
            "LEFT JOIN service_key ON service_key.object_id = wrapped_material.material_id "
            "LEFT JOIN wrapping_key ON wrapping_key.object_id = wrapped_material.material_id "
            "WHERE wrapped_material.domain_key_id = ? AND wrapped_material.material_id > ? "
            "ORDER BY wrapped_material.material_id LIMIT ?",
            domain_key_id,
            after,
            count,
        )
        return [row_mapping.wrapped_material(row[10:], _identity(row), row[6] or b"") for row in found]


class DomainKeyStatements(DomainKeyQueries):
    """The part of the transaction about domain keys."""

    async def insert_domain_key(self, domain_key: DomainKey) -> None:
        await self._swap(
            "domain key",
            f"INSERT INTO domain_key ({_DOMAIN_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            domain_key.domain_key_id,
            domain_key.token,
            domain_key.state.value,
            domain_key.binding_key,
            row_mapping.micros(domain_key.created_at),
            row_mapping.micros(domain_key.changed_at),
            domain_key.is_missing,
        )

    async def set_domain_key_state(
        self, domain_key_id: bytes, old: DomainKeyState, new: DomainKeyState, now: datetime
    ) -> None:
        await self._swap(
            f"domain key {domain_key_id.hex()}",
            "UPDATE domain_key SET state = ?, changed_at = ? WHERE domain_key_id = ? AND state = ?",
            new.value,
            row_mapping.micros(now),
            domain_key_id,
            old.value,
        )

    async def set_domain_key_held(self, domain_key_id: bytes, *, is_held: bool) -> None:
        await self._run(
            "INSERT INTO domain_key_holder (domain_key_id, hsm) VALUES (?, ?) ON CONFLICT DO NOTHING"
            if is_held
            else "DELETE FROM domain_key_holder WHERE domain_key_id = ? AND hsm = ?",
            domain_key_id,
            self.hsm,
        )
        holders = await self._all("SELECT hsm FROM domain_key_holder WHERE domain_key_id = ?", domain_key_id)
        await self._run("UPDATE domain_key SET missing = ? WHERE domain_key_id = ?", not holders, domain_key_id)

    async def replace_wrapped(self, old: WrappedMaterial, new: WrappedMaterial, now: datetime) -> None:
        await self._swap(
            f"wrapped material {old.material_id.hex()}",
            "UPDATE wrapped_material SET domain_key_id = ?1, mechanism = ?2, content = ?3, mac = ?4 "
            f"WHERE material_id = ?5 AND domain_key_id = ?6 AND content = ?7 AND {_NOT_DESTROYED}",
            new.domain_key_id,
            new.mechanism,
            new.content,
            new.mac,
            old.material_id,
            old.domain_key_id,
            old.content,
        )
        await self.note_emptied(old.domain_key_id, now)

    async def note_emptied(self, domain_key_id: bytes, now: datetime) -> None:
        await self._run(
            "UPDATE domain_key SET changed_at = ?1 WHERE domain_key_id = ?2 AND EXISTS "
            "(SELECT 1 FROM domain_key_count AS counted WHERE counted.domain_key_id = ?2 AND materials = 0)",
            row_mapping.micros(now),
            domain_key_id,
        )

    async def _insert_wrapped(self, wrapped: WrappedMaterial) -> None:
        """Insert the wrapped form of a material whose rows exist. Material that was deleted before is known again."""
        await self._run("DELETE FROM deleted_material WHERE material_id = ?", wrapped.material_id)
        await self._swap(
            "wrapped material",
            "INSERT INTO wrapped_material (domain_key_id, material_id, mechanism, content, mac) "
            f"SELECT ?1, ?2, ?3, ?4, ?5 WHERE {_NOT_DESTROYED}",
            wrapped.domain_key_id,
            wrapped.material_id,
            wrapped.mechanism,
            wrapped.content,
            wrapped.mac,
        )
