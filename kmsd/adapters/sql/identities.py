"""Queries and statements about accounts, users, roles and access keys.

Each read is one statement, thus one snapshot: a change is seen in a user, its policies and tags, or in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kmsd.adapters.sql import row_mapping
from kmsd.adapters.sql.access import SqlAccess
from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User

_ACCESS_KEY = "access_key_id, sealed_secret, status, access_key.created_at"
_ACCESS_KEY_WIDTH = _ACCESS_KEY.count(",") + 1
_USER = "account, name, user_id, arn, created_at"
_ROLE = "account, name, role_id, arn, trust_policy, max_session_seconds, created_at"
_OWNED = 'access_key JOIN "user" AS owner ON owner.account = access_key.account AND owner.name = user_name'


class IdentityQueries(SqlAccess):
    """The part of the reader about identities."""

    def _columns(self, columns: str, kind: str) -> str:
        """Return the columns of `owner`, a user or a role, followed by its policies and its tags as JSON objects."""
        return f"""{row_mapping.prefixed("owner", columns)},
            (SELECT {self._json_object}(one.name, one.document) FROM {kind}_policy AS one
            WHERE one.account = owner.account AND one.{kind}_name = owner.name),
            (SELECT {self._json_object}(one.tag_key, one.tag_value) FROM {kind}_tag AS one
            WHERE one.account = owner.account AND one.{kind}_name = owner.name)"""

    @property
    def _user_columns(self) -> str:
        return self._columns(_USER, "user")

    async def user(self, account: str, name: str) -> User | None:
        row = await self._one(
            f'SELECT {self._user_columns} FROM "user" AS owner WHERE account = ? AND name = ?', account, name
        )
        return None if row is None else row_mapping.user(row)

    async def users(self) -> Sequence[User]:
        found = await self._all(f'SELECT {self._user_columns} FROM "user" AS owner ORDER BY account, name')
        return [row_mapping.user(row) for row in found]

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        found = await self._keys_of_one("access_key_id = ?", access_key_id)
        return found[0] if found else None

    async def access_keys_of(self, account: str, user_name: str) -> Sequence[AccessKey]:
        return await self._keys_of_one("access_key.account = ? AND user_name = ?", account, user_name)

    async def _keys_of_one(self, where: str, *values: str) -> Sequence[AccessKey]:
        """Return access keys of one user."""
        found = await self._all(
            f"SELECT {_ACCESS_KEY}, {self._user_columns} FROM {_OWNED} WHERE {where} "
            "ORDER BY access_key.created_at, access_key_id",
            *values,
        )
        if not found:
            return []
        owner = row_mapping.user(found[0][_ACCESS_KEY_WIDTH:])
        return [row_mapping.access_key(row, owner) for row in found]

    async def role(self, account: str, name: str) -> Role | None:
        row = await self._one(
            f"SELECT {self._columns(_ROLE, 'role')} FROM role AS owner WHERE account = ? AND name = ?", account, name
        )
        return None if row is None else row_mapping.role(row)

    async def roles(self) -> Sequence[Role]:
        found = await self._all(f"SELECT {self._columns(_ROLE, 'role')} FROM role AS owner ORDER BY account, name")
        return [row_mapping.role(row) for row in found]


class IdentityStatements(IdentityQueries):
    """The part of the transaction about identities."""

    async def insert_account(self, account: str, now: datetime) -> None:
        await self._run(
            "INSERT INTO account (account, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
            account,
            row_mapping.micros(now),
        )

    async def insert_user(self, user: User) -> None:
        await self._insert(
            '"user"',
            "account, name, user_id, arn, created_at",
            (user.account, user.name, user.user_id, user.arn, row_mapping.micros(user.created_at)),
        )
        await self.put_user_policies(user.account, user.name, user.policies)
        await self.put_user_tags(user.account, user.name, user.tags)

    async def put_user_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        await self._replace("user_policy", "user_name, name, document", (account, name), policies)

    async def put_user_tags(self, account: str, name: str, tags: Mapping[str, str]) -> None:
        await self._replace("user_tag", "user_name, tag_key, tag_value", (account, name), tags)

    async def insert_role(self, role: Role) -> None:
        await self._insert(
            "role",
            "account, name, role_id, arn, trust_policy, max_session_seconds, created_at",
            (
                role.account,
                role.name,
                role.role_id,
                role.arn,
                role.trust_policy,
                role.max_session_seconds,
                row_mapping.micros(role.created_at),
            ),
        )
        await self.put_role_policies(role.account, role.name, role.policies)
        await self.put_role_tags(role.account, role.name, role.tags)

    async def put_role_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        await self._replace("role_policy", "role_name, name, document", (account, name), policies)

    async def put_role_tags(self, account: str, name: str, tags: Mapping[str, str]) -> None:
        await self._replace("role_tag", "role_name, tag_key, tag_value", (account, name), tags)

    async def _replace(self, table: str, columns: str, owner: tuple[str, str], rows: Mapping[str, str]) -> None:
        """Replace the rows of a user or a role, whose name is in the first of the columns."""
        await self._run(f"DELETE FROM {table} WHERE account = ? AND {columns.partition(',')[0]} = ?", *owner)
        for name, value in rows.items():
            await self._insert(table, f"account, {columns}", (*owner, name, value))

    async def set_role_session_seconds(self, account: str, name: str, seconds: int) -> None:
        await self._swap(
            f"role {name}",
            "UPDATE role SET max_session_seconds = ? WHERE account = ? AND name = ?",
            seconds,
            account,
            name,
        )

    async def put_trust_policy(self, account: str, name: str, trust_policy: str) -> None:
        await self._swap(
            f"role {name}",
            "UPDATE role SET trust_policy = ? WHERE account = ? AND name = ?",
            trust_policy,
            account,
            name,
        )

    async def delete_role(self, account: str, name: str) -> None:
        await self._swap(f"role {name}", "DELETE FROM role WHERE account = ? AND name = ?", account, name)

    async def delete_user(self, account: str, name: str) -> None:
        await self._swap(f"user {name}", 'DELETE FROM "user" WHERE account = ? AND name = ?', account, name)

    async def insert_access_key(self, access_key: AccessKey) -> None:
        await self._insert(
            "access_key",
            "access_key_id, account, user_name, sealed_secret, status, created_at",
            (
                access_key.access_key_id,
                access_key.user.account,
                access_key.user.name,
                access_key.sealed_secret,
                access_key.status.value,
                row_mapping.micros(access_key.created_at),
            ),
        )

    async def set_access_key_status(self, access_key_id: str, status: AccessKeyStatus) -> None:
        await self._swap(
            f"access key {access_key_id}",
            "UPDATE access_key SET status = ? WHERE access_key_id = ?",
            status.value,
            access_key_id,
        )

    async def replace_sealed_secret(self, old: AccessKey, sealed: bytes) -> None:
        await self._swap(
            f"access key {old.access_key_id}",
            "UPDATE access_key SET sealed_secret = ? WHERE access_key_id = ? AND sealed_secret = ?",
            sealed,
            old.access_key_id,
            old.sealed_secret,
        )

    async def delete_access_key(self, access_key_id: str) -> None:
        await self._swap(f"access key {access_key_id}", "DELETE FROM access_key WHERE access_key_id = ?", access_key_id)
