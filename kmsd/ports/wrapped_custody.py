"""Port of a token, the part about wrapped material and domain keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.key_spec import KeySpec, KeyUsage
    from kmsd.domain.material import MaterialIdentity, WrappedMaterial
    from kmsd.ports.token_records import TamperedMaterial, Wrapped

    Kind = tuple[KeySpec, KeyUsage]


class WrappedCustody(Protocol):
    """Wrapped material in one token. Methods raise as those of `kmsd.ports.Token`.

    Each raises `NoSuchObject` if the token does not hold the domain key, and `CustodyNotEnforced` if it does not keep
    the user from reading what the domain key unwraps.
    """

    async def prove(self, domain_key: DomainKey) -> None:
        """Prove by behaviour that the token enforces a domain key's protection, and open its binding key."""
        ...

    async def unwrappable(self, domain_key: DomainKey) -> Mapping[Kind, str]:
        """Return the kinds of keys that the token offers and cannot wrap, each with the reason.

        The first call tests them all, which takes up to a second.
        """
        ...

    async def generate(self, identity: MaterialIdentity, domain_key: DomainKey) -> WrappedMaterial:
        """Generate key material, wrapped and bound to its identity. Nothing of it stays in the token.

        It was unwrapped and its attributes were verified; the private key of a pair was used. Raises `MechanismMissing`
        for a kind that the token cannot wrap.
        """
        ...

    async def import_material(
        self, wrapped: Wrapped, mark: bytes, expected: bytes, *, identity: MaterialIdentity, domain_key: DomainKey
    ) -> WrappedMaterial:
        """Unwrap and verify key material from outside, as `unwrap_key` and `import_key` do, and wrap it.

        It must have the fingerprint `expected`.
        """
        ...

    async def rewrap(
        self, materials: Sequence[WrappedMaterial], domain_key: DomainKey
    ) -> Sequence[WrappedMaterial | TamperedMaterial]:
        """Return each material under another domain key, in the same order; an error for a row that was changed."""
        ...

    async def require_bound(self, material: WrappedMaterial) -> None:
        """Verify that a row is as the daemon has written it, its public key included. Raises `TamperedMaterial`."""
        ...
