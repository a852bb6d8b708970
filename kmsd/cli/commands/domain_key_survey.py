"""Domain keys of all tokens, as the database and the tokens have them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from kmsd.app import Components
from kmsd.config.sections import Config
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.material import TokenName
from kmsd.exit_codes import NotFound, WrongUsage
from kmsd.ports import NoSuchObject, Token


class Presence(StrEnum):
    """State of a domain key in its token."""

    PRESENT = "present"
    MISSING = "missing"
    AWAY = "token away"
    """The token is not open: it is not known."""


class Found(msgspec.Struct, frozen=True):
    """One domain key."""

    domain_key_id: bytes
    token: TokenName
    row: DomainKey | None
    """None for one that is in the token, and not in the database."""
    materials: int
    """Key materials that are wrapped under it."""
    presence: Presence


def token_named(config: Config, name: str) -> TokenName:
    """Return the name of a configured token that may hold domain keys. Raises `CommandError`."""
    if name == TokenName.IMPORT:
        raise WrongUsage("the import token holds no keys, and so no domain keys")
    known = [TokenName.MAIN, *(TokenName(further.name) for further in config.tokens)]
    if name not in known:
        raise NotFound(f"there is no token {name!r}: the configuration has {', '.join(known)}")
    return TokenName(name)


async def survey(components: Components) -> list[Found]:
    """Return the domain keys of the database, oldest first, and then those that only a token has.

    Raises `StoreUnavailable`, `TokenError`.
    """
    reader = await components.store.read()
    rows, counts = await reader.domain_keys(), await reader.wrapped_counts()
    known = {one.object_id for one in await reader.token_objects()} | {row.domain_key_id for row in rows}
    seen: dict[TokenName, set[bytes]] = {}
    unknown: list[Found] = []
    for name, token in components.tokens.items():
        if name != TokenName.IMPORT:
            seen[name] = {one.object_id for one in await token.list_objects() if one.kind == "secret"}
            unknown += [
                Found(one, name, None, 0, Presence.PRESENT)
                for one in sorted(seen[name] - known)
                if await is_domain_key(token, one)
            ]
    return [_found(row, counts, seen) for row in rows] + unknown


def _found(row: DomainKey, counts: Mapping[bytes, int], seen: Mapping[TokenName, set[bytes]]) -> Found:
    materials = counts.get(row.domain_key_id, 0)
    if row.token not in seen:
        presence = Presence.AWAY
    else:
        presence = Presence.PRESENT if row.domain_key_id in seen[row.token] else Presence.MISSING
    return Found(row.domain_key_id, row.token, row, materials, presence)


async def is_domain_key(token: Token, object_id: bytes) -> bool:
    """True if the token holds a domain key of this id. Raises `TokenUnavailable`."""
    try:
        shown = await token.attributes(object_id)
    except NoSuchObject:
        return False
    return all(shown.get(f"CKA_{name}") is True for name in ("TRUSTED", "WRAP", "UNWRAP"))
