"""Port of the store, the part about accounts, users, roles and access keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User


class IdentityReader(Protocol):
    """Reads identities. Raises as `kmsd.ports.Reader`."""

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        """Return an access key with its user and the user's policies."""
        ...

    async def user(self, account: str, name: str) -> User | None:
        """Return a user with its policies."""
        ...

    async def users(self) -> Sequence[User]:
        """Return all users, sorted by account and name."""
        ...

    async def access_keys_of(self, account: str, user_name: str) -> Sequence[AccessKey]:
        """Return the access keys of a user."""
        ...

    async def role(self, account: str, name: str) -> Role | None:
        """Return a role with its policies."""
        ...

    async def roles(self) -> Sequence[Role]:
        """Return all roles, sorted by account and name."""
        ...


class IdentityWriter(IdentityReader, Protocol):
    """Changes identities. Raises as `kmsd.ports.Transaction`."""

    async def insert_account(self, account: str, now: datetime) -> None:
        """Insert an account, unless it exists."""
        ...

    async def insert_user(self, user: User) -> None:
        """Insert a user. Raises `StoreConflict` if the name is taken."""
        ...

    async def delete_user(self, account: str, name: str) -> None:
        """Delete a user with its access keys and policies. Raises `StoreConflict` if there is none."""
        ...

    async def put_user_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        """Replace the inline policies of a user. Raises `StoreConflict` if there is none."""
        ...

    async def put_user_tags(self, account: str, name: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of a user. Raises `StoreConflict` if there is none."""
        ...

    async def insert_role(self, role: Role) -> None:
        """Insert a role. Raises `StoreConflict` if the name is taken."""
        ...

    async def put_role_policies(self, account: str, name: str, policies: Mapping[str, str]) -> None:
        """Replace the inline policies of a role. Raises `StoreConflict` if there is none."""
        ...

    async def put_role_tags(self, account: str, name: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of a role. Raises `StoreConflict` if there is none."""
        ...

    async def set_role_session_seconds(self, account: str, name: str, seconds: int) -> None:
        """Set the maximum session duration of a role. Raises `StoreConflict` if there is none."""
        ...

    async def put_trust_policy(self, account: str, name: str, trust_policy: str) -> None:
        """Replace the trust policy of a role. Raises `StoreConflict` if there is none."""
        ...

    async def delete_role(self, account: str, name: str) -> None:
        """Delete a role with its policies, which ends its sessions. Raises `StoreConflict` if there is none."""
        ...

    async def insert_access_key(self, access_key: AccessKey) -> None:
        """Insert an access key. Raises `StoreConflict` if the id is taken."""
        ...

    async def set_access_key_status(self, access_key_id: str, status: AccessKeyStatus) -> None:
        """Activate or disable an access key. Raises `StoreConflict` if there is none."""
        ...

    async def replace_sealed_secret(self, old: AccessKey, sealed: bytes) -> None:
        """Replace the sealed secret of an access key (compare-and-swap)."""
        ...

    async def delete_access_key(self, access_key_id: str) -> None:
        """Delete an access key. Raises `StoreConflict` if there is none."""
        ...
