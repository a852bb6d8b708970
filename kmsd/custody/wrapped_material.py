"""Wrapped material: which new key material is wrapped, and under which domain key; and its public keys.

A token whose custody is `wrapped` makes objects only for kinds of keys that it cannot wrap. What exists already stays
as it is: each material says whether it is an object or wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    Raises UnsupportedOperationException if the token is to wrap and has no current domain key, and the token's errors.
    """
    if name not in tokens.wraps:
        return None
    domain_key = await reader.current_domain_key(name)
    if domain_key is None:
        raise UnsupportedOperationException(
            f"No key material can be made: the token {name} has no current domain key. "
            "An administrator of kmsd makes one with `kmsd domain-key create`."
        )
    if (spec, usage) in await tokens[name].custody.unwrappable(domain_key):
        return None
    return domain_key


async def public_key(tokens: Tokens, material: Material) -> bytes:
    """Return the public key of a pair. Raises `TamperedMaterial` if it is not the one that the wrapped pair had.

    The public keys of objects are compared with the token at each start (`kmsd.jobs.reconcile`).
    """
    if material.wrapped is not None:
        await tokens.of(material).custody.require_bound(material.wrapped)
    return material.public_key
