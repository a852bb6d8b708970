"""Reader of the store, without a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.domain_keys import DomainKeyQueries
from kmsd.adapters.sql.identities import IdentityQueries
from kmsd.adapters.sql.key_usage import KeyUsageQueries
from kmsd.adapters.sql.log_groups import LogGroupQueries
from kmsd.adapters.sql.nodes import NodeQueries
from kmsd.domain.alias import Alias
from kmsd.domain.grant import Grant
from kmsd.domain.key import Key, Origin
from kmsd.domain.key_import import ImportedMaterial, WrappingKey
from kmsd.domain.key_state import KeyState
from kmsd.domain.material import Material, MaterialStatus
from kmsd.ports import DueKind, KindOfMaterial, ServiceKey, SessionMac, SharedPolicy, StoreUnavailable, TokenObject

DUE = {
    DueKind.DELETION: ("key", "deletion_at", "state = 'PendingDeletion'"),
    DueKind.EXPIRY: ("imported_material", "valid_to", "valid_to IS NOT NULL"),
    DueKind.ROTATION: ("key", "next_rotation_at", "state = 'Enabled'"),
}
"""Table, due column and further condition of each job."""

_NO_LIMIT = 2**31
_EXISTS = "(key.deletion_at IS NULL OR key.deletion_at > ?)"
"""Condition for keys whose deletion is not due at the bound instant."""


_KEY = f"""
    SELECT {row_mapping.prefixed("key", row_mapping.KEY_COLUMNS)},
        {row_mapping.MATERIAL_COLUMNS}, {row_mapping.WRAPPED_COLUMNS}
    FROM key LEFT JOIN material ON material.key_id = key.key_id
    LEFT JOIN token_object ON object_id = material.material_id AND status IN ('ready', 'missing')
        AND NOT EXISTS (SELECT 1 FROM deleted_material AS deleted WHERE deleted.material_id = object_id)
    LEFT JOIN wrapped_material ON wrapped_material.material_id = object_id
    LEFT JOIN domain_key ON domain_key.domain_key_id = wrapped_material.domain_key_id
    WHERE key.key_id = ? ORDER BY material.created_at, material.material_id"""
"""A key with its materials, a row for each; those that cannot be used, and a key without any, have NULL as status."""
_SERVICE_KEYS = f"""
    SELECT purpose, object_id, algorithm, public_key, {row_mapping.WRAPPED_COLUMNS} FROM service_key
    LEFT JOIN wrapped_material ON wrapped_material.material_id = object_id
    LEFT JOIN domain_key ON domain_key.domain_key_id = wrapped_material.domain_key_id"""
_KEY_WIDTH = row_mapping.KEY_COLUMNS.count(",") + 1


_POLICIES = f"""
    SELECT policy, min(CASE WHEN {_EXISTS.replace("?", "?3")} THEN arn ELSE NULL END),
        count(CASE WHEN {_EXISTS.replace("?", "?3")} THEN 1 ELSE NULL END), max(key_id)
    FROM (SELECT key_id, arn, policy, deletion_at FROM key WHERE key_id > ?1 ORDER BY key_id LIMIT ?2) AS key
    GROUP BY policy"""
COUNTED_KEYS = 10_000
"""Keys whose materials one statement counts."""
_KINDS = """
    SELECT spec, usage, algorithm, count(material_id), max(key_id)
    FROM (SELECT key_id, spec, usage FROM key WHERE key_id > ? ORDER BY key_id LIMIT ?) AS page
    LEFT JOIN material USING (key_id) GROUP BY spec, usage, algorithm"""


class SqlReader(LogGroupQueries, KeyUsageQueries, DomainKeyQueries, NodeQueries, IdentityQueries):
    """Implements `kmsd.ports.Reader`."""

    # --- keys ---------------------------------------------------------------------------------------

    async def key(self, key_id: str) -> Key | None:
        # One statement, thus one snapshot: a change is seen in the key and its materials, or in neither.
        rows = await self._all(_KEY, key_id)
        if not rows:
            return None
        materials = (row[_KEY_WIDTH:] for row in rows)
        usable = [found for found in materials if found[row_mapping.STATUS] is not None]
        return row_mapping.key(rows[0], usable, self.hsm)

    async def kinds_of_material(self) -> Mapping[KindOfMaterial, int]:
        counts, after = Counter[KindOfMaterial](), ""
        while found := await self._all(_KINDS, after, COUNTED_KEYS):
            for row in found:
                counts[row_mapping.kind_of_material(row)] += row[3]
            after = max(row[4] for row in found)
        return {kind: count for kind, count in counts.items() if count}

    async def policies_after(self, key_id: str, count: int, now: datetime) -> tuple[str, Sequence[SharedPolicy]]:
        found = await self._all(_POLICIES, key_id, count, row_mapping.micros(now))
        last = max((row[3] for row in found), default="")
        return last, [SharedPolicy(row[0], row[1], row[2]) for row in found if row[2]]

    async def grants_for(self, grantee: str, count: int, now: datetime) -> Sequence[Grant]:
        found = await self._all(
            f"SELECT {row_mapping.prefixed('grant_', row_mapping.GRANT_COLUMNS)} FROM grant_ JOIN key USING (key_id) "
            f"WHERE grantee_principal = ? AND {_EXISTS} LIMIT ?",
            grantee,
            row_mapping.micros(now),
            count,
        )
        return [row_mapping.grant(row) for row in found]

    async def key_ids(self) -> frozenset[str]:
        return frozenset(row[0] for row in await self._all("SELECT key_id FROM key"))

    async def key_names_after(self, account: str, key_id: str, count: int, now: datetime) -> Sequence[tuple[str, str]]:
        found = await self._all(
            f"SELECT key_id, arn FROM key WHERE account = ? AND key_id > ? AND {_EXISTS} ORDER BY key_id LIMIT ?",
            account,
            key_id,
            row_mapping.micros(now),
            count,
        )
        return [(row[0], row[1]) for row in found]

    async def count_keys(self, account: str) -> int:
        row = await self._one("SELECT keys FROM key_count WHERE account = ?", account)
        return 0 if row is None else int(row[0])

    async def tags_of(self, key_id: str) -> Mapping[str, str]:
        return dict(await self._all("SELECT tag_key, tag_value FROM key_tag WHERE key_id = ? ORDER BY tag_key", key_id))

    async def rotations_of(self, key_id: str) -> Sequence[Material]:
        key = await self.key(key_id)
        return [] if key is None else list(key.materials.values())

    async def keys_due(self, job: DueKind, now: datetime, count: int) -> Sequence[str]:
        table, column, where = DUE[job]
        found = await self._all(
            f"SELECT key_id FROM {table} WHERE {column} <= ? AND {where} ORDER BY {column} LIMIT ?",
            row_mapping.micros(now),
            count,
        )
        return list(dict.fromkeys(row[0] for row in found))

    async def next_due(self, job: DueKind) -> datetime | None:
        table, column, where = DUE[job]
        row = await self._one(f"SELECT min({column}) FROM {table} WHERE {column} IS NOT NULL AND {where}")
        return None if row is None else row_mapping.maybe_instant(row[0])

    # --- aliases ------------------------------------------------------------------------------------

    async def alias(self, account: str, name: str) -> Alias | None:
        row = await self._one(
            f"SELECT {row_mapping.ALIAS_COLUMNS} FROM alias WHERE account = ? AND name = ?",
            account,
            name,
        )
        return None if row is None else row_mapping.alias(row)

    async def aliases_after(
        self, account: str, name: str, count: int, *, now: datetime, key_id: str | None = None
    ) -> Sequence[Alias]:
        where, values = "alias.account = ?", [account]
        if key_id is not None:
            # Use the index of the key: the expression keeps SQLite from choosing the account's.
            where, values = "alias.key_id = ? AND alias.account || '' = ?", [key_id, account]
        found = await self._all(
            f"SELECT {row_mapping.prefixed('alias', row_mapping.ALIAS_COLUMNS)} FROM alias JOIN key USING (key_id) "
            f"WHERE {where} AND name > ? AND {_EXISTS} ORDER BY name LIMIT ?",
            *values,
            name,
            row_mapping.micros(now),
            count,
        )
        return [row_mapping.alias(row) for row in found]

    async def count_aliases(self, key_id: str) -> int:
        row = await self._one("SELECT count(*) FROM alias WHERE key_id = ?", key_id)
        return 0 if row is None else int(row[0])

    # --- grants -------------------------------------------------------------------------------------

    async def grant(self, grant_id: str) -> Grant | None:
        row = await self._one(
            f"SELECT {row_mapping.GRANT_COLUMNS} FROM grant_ WHERE grant_id = ?",
            grant_id,
        )
        return None if row is None else row_mapping.grant(row)

    async def grants_to(self, key_id: str, grantees: Sequence[str]) -> Sequence[Grant]:
        marks = ", ".join("?" * len(grantees))
        found = await self._all(
            f"SELECT {row_mapping.GRANT_COLUMNS} FROM grant_ "
            f"WHERE key_id = ? AND grantee_principal IN ({marks}) ORDER BY grant_id",
            key_id,
            *grantees,
        )
        return tuple(row_mapping.grant(row) for row in found)

    async def grants_of(
        self, key_id: str, after: str, count: int, *, grant_id: str | None = None, grantee: str | None = None
    ) -> Sequence[Grant]:
        where, values = "key_id = ? AND grant_id > ?", [key_id, after]
        if grant_id is not None:
            where, values = f"{where} AND grant_id = ?", [*values, grant_id]
        if grantee is not None:
            where, values = f"{where} AND grantee_principal = ?", [*values, grantee]
        else:
            where = f"{where} AND grant_id > ''"  # the condition of PostgreSQL's index of pages
        return await self._grants(where, count, *values)

    async def grants_named(self, key_id: str, name: str) -> Sequence[Grant]:
        return await self._grants("key_id = ? AND name = ?", _NO_LIMIT, key_id, name)

    async def grants_retirable_by(self, principal: str, after: str, count: int, now: datetime) -> Sequence[Grant]:
        found = await self._all(
            f"SELECT {row_mapping.prefixed('grant_', row_mapping.GRANT_COLUMNS)} FROM grant_ JOIN key USING (key_id) "
            f"WHERE retiring_principal = ? AND grant_id > ? AND {_EXISTS} ORDER BY grant_id LIMIT ?",
            principal,
            after,
            row_mapping.micros(now),
            count,
        )
        return [row_mapping.grant(row) for row in found]

    async def _grants(self, where: str, count: int, *values: str) -> Sequence[Grant]:
        found = await self._all(
            f"SELECT {row_mapping.GRANT_COLUMNS} FROM grant_ WHERE {where} ORDER BY grant_id LIMIT ?",
            *values,
            count,
        )
        return [row_mapping.grant(row) for row in found]

    async def count_grants(self, key_id: str) -> int:
        row = await self._one("SELECT grants FROM grant_count WHERE key_id = ?", key_id)
        return 0 if row is None else int(row[0])

    # --- objects in the token -----------------------------------------------------------------------

    async def service_keys(self) -> Mapping[str, ServiceKey]:
        found = await self._all(_SERVICE_KEYS)
        return {key.purpose: key for key in (row_mapping.service_key(row, self.hsm) for row in found)}

    async def token_object(self, object_id: bytes) -> TokenObject | None:
        row = await self._one(f"SELECT {row_mapping.OBJECT_COLUMNS} FROM token_object WHERE object_id = ?", object_id)
        if row is None:
            return None
        return row_mapping.token_object(row, self.hsm, orphaned=bool(await self._gone([row[5]])))

    async def public_keys(self) -> Mapping[bytes, bytes]:
        return dict(
            await self._all(
                "SELECT object_id, public_key FROM token_object JOIN material ON material_id = object_id "
                "WHERE custody = 'object' AND length(public_key) > 0"
            )
        )

    async def token_objects(self, *statuses: MaterialStatus) -> Sequence[TokenObject]:
        wanted = statuses or tuple(MaterialStatus)
        marks = ", ".join("?" * len(wanted))
        found = await self._all(
            f"SELECT {row_mapping.OBJECT_COLUMNS} FROM token_object "
            f"WHERE custody = 'object' AND status IN ({marks}) ORDER BY created_at",
            *(status.value for status in wanted),
        )
        gone = await self._gone({row[5] for row in found})
        return [row_mapping.token_object(row, self.hsm, orphaned=row[5] in gone) for row in found]

    # --- import -------------------------------------------------------------------------------------

    async def _wrapping_keys(self, where: str, *values: object) -> list[WrappingKey]:
        found = await self._all(
            "SELECT object_id, token_object.token, bits, public_key, wrapping_key.created_at, key_id, expires_at, "
            f"failures, {row_mapping.WRAPPED_COLUMNS} FROM wrapping_key JOIN token_object USING (object_id) "
            "LEFT JOIN wrapped_material ON wrapped_material.material_id = object_id "
            "LEFT JOIN domain_key ON domain_key.domain_key_id = wrapped_material.domain_key_id "
            f"WHERE {where} ORDER BY wrapping_key.created_at, object_id",
            *values,
        )
        return [row_mapping.wrapping_key(row, self.hsm) for row in found]

    async def wrapping_key(self, object_id: bytes) -> WrappingKey | None:
        found = await self._wrapping_keys("object_id = ?", object_id)
        return found[0] if found else None

    async def wrapping_keys(self) -> Sequence[WrappingKey]:
        return await self._wrapping_keys("TRUE")

    async def worn_keys(self, messages: int) -> Sequence[str]:
        found = await self._all(
            # CROSS JOIN keeps SQLite from starting at the keys.
            "SELECT key.key_id FROM token_object CROSS JOIN material CROSS JOIN key "
            "WHERE material_id = object_id AND key.key_id = material.key_id AND current_material = object_id "
            "AND messages > 0 AND messages >= ? AND key.state = ? AND key.origin = ?",
            messages,
            KeyState.ENABLED.value,
            Origin.AWS_KMS.value,
        )
        return [row[0] for row in found]

    async def counted_messages(self, at_least: int) -> Sequence[tuple[bytes, str, int]]:
        found = await self._all(
            "SELECT object_id, owner, messages FROM token_object WHERE messages > 0 AND messages >= ?", at_least
        )
        return [(row[0], row[1], row[2]) for row in found]

    async def imported_materials(self, key_id: str) -> Sequence[ImportedMaterial]:
        found = await self._all(
            f"SELECT {row_mapping.IMPORTED_COLUMNS} FROM imported_material WHERE key_id = ? "
            "ORDER BY imported_at, material_id",
            key_id,
        )
        return [row_mapping.imported_material(row) for row in found]

    async def session_mac(self) -> SessionMac:
        row = await self._one("SELECT sealed, older_until FROM session_mac")
        if row is None:
            raise StoreUnavailable("the table session_mac is empty")
        return SessionMac(row[0], row_mapping.maybe_instant(row[1]))
