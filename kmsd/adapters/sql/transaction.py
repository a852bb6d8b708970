"""Transaction of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.domain_keys import DomainKeyStatements
from kmsd.adapters.sql.identities import IdentityStatements
from kmsd.adapters.sql.key_usage import KeyUsageStatements
from kmsd.adapters.sql.log_groups import LogGroupStatements
from kmsd.adapters.sql.nodes import NodeStatements
from kmsd.adapters.sql.reader import SqlReader
from kmsd.domain.alias import Alias
from kmsd.domain.grant import Grant
from kmsd.domain.key import Key
from kmsd.domain.key_import import ImportedMaterial, WrappingKey
from kmsd.domain.material import Material, MaterialStatus
from kmsd.ports import AUDIT, ServiceKey, StoreConflict, TokenObject


class SqlTransaction(
    SqlReader, LogGroupStatements, KeyUsageStatements, DomainKeyStatements, NodeStatements, IdentityStatements
):
    """Implements `kmsd.ports.Transaction`. The store begins and ends it."""

    def finish(self) -> None:
        """Do nothing: the store commits each transaction alone."""

    # --- objects in the token -----------------------------------------------------------------------

    async def insert_token_object(self, token_object: TokenObject) -> None:
        await self._insert(
            "token_object",
            row_mapping.OBJECT_COLUMNS,
            (
                token_object.object_id,
                token_object.owner,
                token_object.status.value,
                row_mapping.micros(token_object.created_at),
                row_mapping.named_in_database(token_object.token, self.hsm, is_wrapped=token_object.is_wrapped),
                self._maker,
                row_mapping.WRAPPED if token_object.is_wrapped else row_mapping.OBJECT,
            ),
        )

    async def set_object_status(self, object_id: bytes, old: MaterialStatus, new: MaterialStatus) -> None:
        await self._swap(
            f"object {object_id.hex()}",
            "UPDATE token_object SET status = ? WHERE object_id = ? AND status = ?",
            new.value,
            object_id,
            old.value,
        )

    async def reserve_messages(self, object_id: bytes, count: int) -> int:
        row = await self._one(
            "UPDATE token_object SET messages = messages + ? WHERE object_id = ? RETURNING messages", count, object_id
        )
        if row is None:
            raise StoreConflict(f"object {object_id.hex()} is unknown")
        return int(row[0])

    async def delete_token_object(self, object_id: bytes, old: MaterialStatus) -> None:
        await self._swap(
            f"object {object_id.hex()}",
            "DELETE FROM token_object WHERE object_id = ? AND status = ?",
            object_id,
            old.value,
        )

    async def insert_service_key(self, service_key: ServiceKey) -> None:
        await self._insert(
            "service_key",
            "purpose, object_id, algorithm",
            (
                row_mapping.named_in_database(
                    service_key.purpose, self.hsm, is_wrapped=service_key.wrapped is not None
                ),
                service_key.object_id,
                service_key.algorithm,
            ),
        )
        if service_key.wrapped is not None:
            await self._insert_wrapped(service_key.wrapped)

    async def publish_audit_key(self, public_key: bytes) -> None:
        await self._run(
            "UPDATE service_key SET public_key = ? WHERE purpose = ? AND public_key IS NULL",
            public_key,
            row_mapping.named_in_database(AUDIT, self.hsm),
        )

    async def set_session_mac(self, sealed: bytes, old: bytes | None = None) -> None:
        await self._swap(
            "session MAC key", "UPDATE session_mac SET sealed = ? WHERE sealed IS NOT DISTINCT FROM ?", sealed, old
        )

    # --- import -------------------------------------------------------------------------------------

    async def insert_wrapping_key(self, wrapping_key: WrappingKey) -> None:
        await self._insert(
            "wrapping_key",
            "object_id, bits, public_key, created_at, key_id, expires_at, failures",
            (
                wrapping_key.object_id,
                wrapping_key.bits,
                wrapping_key.public_key,
                row_mapping.micros(wrapping_key.created_at),
                wrapping_key.key_id,
                row_mapping.micros(wrapping_key.expires_at),
                wrapping_key.failures,
            ),
        )
        if wrapping_key.wrapped is not None:
            await self._insert_wrapped(wrapping_key.wrapped)

    async def assign_wrapping_key(self, object_id: bytes, key_id: str, expires_at: datetime) -> None:
        await self._swap(
            f"wrapping key {object_id.hex()}",
            "UPDATE wrapping_key SET key_id = ?, expires_at = ? WHERE object_id = ? AND key_id IS NULL",
            key_id,
            row_mapping.micros(expires_at),
            object_id,
        )

    async def count_import_failure(self, object_id: bytes) -> int:
        await self._swap(
            f"wrapping key {object_id.hex()}",
            "UPDATE wrapping_key SET failures = failures + 1 WHERE object_id = ?",
            object_id,
        )
        row = await self._one("SELECT failures FROM wrapping_key WHERE object_id = ?", object_id)
        return 0 if row is None else int(row[0])

    async def delete_wrapping_key(self, object_id: bytes) -> None:
        await self._swap(f"wrapping key {object_id.hex()}", "DELETE FROM wrapping_key WHERE object_id = ?", object_id)

    async def put_imported_material(self, key_id: str, imported: ImportedMaterial) -> None:
        await self._swap(
            f"imported material of {key_id}",
            f"INSERT INTO imported_material (key_id, {row_mapping.IMPORTED_COLUMNS}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (material_id) DO UPDATE SET state = excluded.state, description = excluded.description, "
            "valid_to = excluded.valid_to, rotated_at = excluded.rotated_at "
            "WHERE imported_material.key_id = excluded.key_id "
            "AND imported_material.algorithm IS NOT DISTINCT FROM excluded.algorithm "
            "AND imported_material.fingerprint = excluded.fingerprint",
            key_id,
            *row_mapping.imported_values(imported),
        )

    async def delete_imported_material(self, material_id: bytes) -> None:
        await self._swap("imported material", "DELETE FROM imported_material WHERE material_id = ?", material_id)

    # --- keys ---------------------------------------------------------------------------------------

    async def insert_key(self, key: Key) -> None:
        await self._insert("key", row_mapping.KEY_COLUMNS, row_mapping.key_values(key))

    async def update_key(self, old: Key, new: Key) -> None:
        assignments = ", ".join(f"{column.strip()} = ?" for column in row_mapping.KEY_COLUMNS.split(","))
        await self._swap(
            f"key {old.key_id}",
            f"UPDATE key SET {assignments} WHERE key_id = ? AND state = ? AND deletion_at IS NOT DISTINCT FROM ?",
            *row_mapping.key_values(new),
            old.key_id,
            old.state.value,
            row_mapping.micros(old.deletion_at),
        )

    async def insert_material(self, key_id: str, material: Material) -> None:
        await self._insert(
            "material",
            "material_id, key_id, algorithm, created_at, rotation_type, public_key",
            (
                material.material_id,
                key_id,
                material.algorithm or 0,
                row_mapping.micros(material.created_at),
                None if material.rotation_type is None else material.rotation_type.value,
                material.public_key,
            ),
        )
        if material.wrapped is not None:
            await self._insert_wrapped(material.wrapped)

    async def delete_material(self, material_id: bytes) -> None:
        await self._swap("material", "DELETE FROM material WHERE material_id = ?", material_id)

    async def delete_key(self, key_id: str) -> None:
        await self._swap(f"key {key_id}", "DELETE FROM key WHERE key_id = ?", key_id)

    # --- aliases, grants, tags ----------------------------------------------------------------------

    async def insert_alias(self, alias: Alias) -> None:
        values = (
            alias.account,
            alias.name,
            alias.key_id,
            row_mapping.micros(alias.created_at),
            row_mapping.micros(alias.updated_at),
        )
        await self._insert("alias", row_mapping.ALIAS_COLUMNS, values)

    async def point_alias(self, alias: Alias, key_id: str, now: datetime) -> None:
        await self._swap(
            alias.name,
            "UPDATE alias SET key_id = ?, updated_at = ? WHERE account = ? AND name = ? AND key_id = ?",
            key_id,
            row_mapping.micros(now),
            alias.account,
            alias.name,
            alias.key_id,
        )

    async def delete_alias(self, alias: Alias) -> None:
        await self._swap(
            alias.name,
            "DELETE FROM alias WHERE account = ? AND name = ? AND key_id = ?",
            alias.account,
            alias.name,
            alias.key_id,
        )

    async def insert_grant(self, grant: Grant) -> None:
        await self._insert("grant_", row_mapping.GRANT_COLUMNS, row_mapping.grant_values(grant))

    async def delete_grant(self, grant_id: str) -> None:
        await self._swap(f"grant {grant_id}", "DELETE FROM grant_ WHERE grant_id = ?", grant_id)

    async def acquire_lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        for (held_by,) in await self._all("SELECT holder FROM lease WHERE name = ?", name):
            if await self._gone([row_mapping.maker_of(held_by)]):
                await self._run("DELETE FROM lease WHERE name = ?", name)
        lasts = until - now
        if self._judges_leases:
            now = await self.database_now()
            until = now + lasts
        changed = await self._run(
            "INSERT INTO lease (name, holder, expires_at) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
            "SET holder = excluded.holder, expires_at = excluded.expires_at WHERE lease.holder = excluded.holder "
            "OR lease.expires_at <= ? OR lease.expires_at > ?",
            name,
            self._holder(holder),
            row_mapping.micros(until),
            row_mapping.micros(now),
            row_mapping.micros(until + lasts),
        )
        return changed == 1

    async def release_lease(self, name: str, holder: str) -> None:
        await self._run("DELETE FROM lease WHERE name = ? AND holder = ?", name, self._holder(holder))

    def _holder(self, holder: str) -> str:
        """Return the holder's name in the row: with the byte of this process's liveness lock."""
        return f"{holder} {self._maker}"

    async def put_tags(self, key_id: str, tags: Mapping[str, str]) -> None:
        for tag_key, tag_value in tags.items():
            await self._run(
                "INSERT INTO key_tag (key_id, tag_key, tag_value) VALUES (?, ?, ?) "
                "ON CONFLICT (key_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value",
                key_id,
                tag_key,
                tag_value,
            )

    async def delete_tags(self, key_id: str, tag_keys: Sequence[str]) -> None:
        for tag_key in tag_keys:
            await self._run("DELETE FROM key_tag WHERE key_id = ? AND tag_key = ?", key_id, tag_key)
