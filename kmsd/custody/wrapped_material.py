"""Wrapped material: which new key material is wrapped, and under which domain key; and its public keys.

A token whose custody is `wrapped` makes objects only for kinds of keys that it cannot wrap. What exists already stays
as it is: each material says whether it is an object or wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.domain.domain_key import DomainKeyState
from kmsd.errors import UnsupportedOperationException

if TYPE_CHECKING:
    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.key_spec import KeySpec, KeyUsage
    from kmsd.domain.material import Material, TokenName
    from kmsd.ports import Reader, Tokens


async def domain_key_for(
    reader: Reader, tokens: Tokens, name: TokenName, spec: KeySpec, usage: KeyUsage
) -> DomainKey | None:
    """Return the domain key that wraps new material of a kind in a token; None if it becomes an object.

    Raises UnsupportedOperationException if the token is to wrap and has no current domain key, or if the material would
    be an object, which other HSMs of the database would not have; and the token's errors.
    """
    if name not in tokens.wraps:
        await _require_one_hsm(reader, spec, f'the configuration does not say custody = "wrapped" for the token {name}')
        return None
    domain_key = await reader.current_domain_key(name)
    if domain_key is None:
        raise UnsupportedOperationException(
            f"No key material can be made: the token {name} has no current domain key. "
            "An administrator of kmsd makes one with `kmsd domain-key create`."
        )
    reasons = await tokens[name].custody.unwrappable(domain_key)
    if (spec, usage) in reasons:
        await _require_one_hsm(reader, spec, f"the token cannot wrap it ({reasons[spec, usage]})")
        return None
    return domain_key


async def domain_key_for_own(reader: Reader, tokens: Tokens, name: TokenName) -> DomainKey | None:
    """Return the domain key that wraps new keys of the daemon itself in a token; None if they become objects.

    With one HSM they are objects, as in earlier releases.
    """
    if name not in tokens.wraps or not await has_several_hsms(reader):
        return None
    return await reader.current_domain_key(name)


async def has_several_hsms(reader: Reader) -> bool:
    """True if nodes of the database have HSMs of their own."""
    return len({node.hsm for node in await reader.nodes()}) > 1


async def lacking_domain_keys(reader: Reader) -> list[DomainKey]:
    """Return the domain keys that key material needs, and that this node's HSM lacks while others may hold them.

    What an HSM holds is recorded by key ceremonies and by reconcile. With one HSM the domain key itself is missing.
    """
    if not await has_several_hsms(reader):
        return []
    counts, holders = await reader.wrapped_counts(), await reader.domain_key_holders()
    return [
        one
        for one in await reader.domain_keys()
        if one.state is not DomainKeyState.DESTROYED
        and one.is_needed(counts.get(one.domain_key_id, 0))
        and reader.hsm not in holders.get(one.domain_key_id, ())
    ]


async def _require_one_hsm(reader: Reader, spec: KeySpec, reason: str) -> None:
    """Raise UnsupportedOperationException if an object would be in one HSM of several."""
    if await has_several_hsms(reader):
        raise UnsupportedOperationException(
            f"No key material of KeySpec {spec} can be made: each HSM of this service must have it, and {reason}."
        )


async def public_key(tokens: Tokens, material: Material) -> bytes:
    """Return the public key of a pair. Raises `TamperedMaterial` if it is not the one that the wrapped pair had.

    The public keys of objects are compared with the token at each start (`kmsd.jobs.reconcile`).
    """
    if material.wrapped is not None:
        await tokens.of(material).custody.require_bound(material.wrapped)
    return material.public_key
