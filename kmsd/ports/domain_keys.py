"""Port of the store, the part about domain keys and wrapped material."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kmsd.domain.domain_key import DomainKey, DomainKeyState
    from kmsd.domain.material import TokenName, WrappedMaterial


class DomainKeyReader(Protocol):
    """Reads domain keys and wrapped material. Raises as `kmsd.ports.Reader`."""

    async def domain_keys(self) -> Sequence[DomainKey]:
        """Return the domain keys of all tokens, oldest first, destroyed ones too."""
        ...

    async def current_domain_key(self, token: TokenName) -> DomainKey | None:
        """Return the domain key that wraps new material of a token; None before one is current."""
        ...

    async def domain_key_holders(self) -> Mapping[bytes, frozenset[str]]:
        """Return the names of the HSMs that were last found to hold each domain key."""
        ...

    async def wrapped_counts(self) -> Mapping[bytes, int]:
        """Return the number of wrapped materials of each domain key that has wrapped one."""
        ...

    async def wrapped_under(self, domain_key_id: bytes, after: bytes, count: int) -> Sequence[WrappedMaterial]:
        """Return at most `count` materials under a domain key, in the order of their ids, after the id `after`."""
        ...


class DomainKeyWriter(DomainKeyReader, Protocol):
    """Changes domain keys and wrapped material. Raises as `kmsd.ports.Transaction`."""

    async def insert_domain_key(self, domain_key: DomainKey) -> None:
        """Insert a domain key. Raises `StoreConflict` if the id is known, or the token has a current one."""
        ...

    async def set_domain_key_state(
        self, domain_key_id: bytes, old: DomainKeyState, new: DomainKeyState, now: datetime
    ) -> None:
        """Change the state from `old` to `new` (compare-and-swap), at `now`."""
        ...

    async def set_domain_key_held(self, domain_key_id: bytes, *, is_held: bool) -> None:
        """Record whether this node's HSM holds a domain key. One that no HSM holds is missing."""
        ...

    async def replace_wrapped(self, old: WrappedMaterial, new: WrappedMaterial, now: datetime) -> None:
        """Replace the wrapped form of a material that is still under `old`'s domain key (compare-and-swap).

        Raises `StoreConflict` also if the new domain key is destroyed. Calls `note_emptied` for the old one.
        """
        ...

    async def note_emptied(self, domain_key_id: bytes, now: datetime) -> None:
        """Set `changed_at` of a domain key if its last material has moved or was deleted."""
        ...
