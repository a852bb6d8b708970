"""Aliases and tags of a key for condition keys, read from the store on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from kmsd.authz.condition_keys import ABOUT_THE_RESOURCE, mentions
from kmsd.domain.key import Key
from kmsd.ports import Reader

EVERY = 2**31
"""Limit for reading aliases: all of them. An alias that was left out might be the one that a Deny names."""


async def of_key(
    reader: Reader, key: Key | None, policies: Iterable[str], now: datetime
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the names of a key's aliases, and its tags. Both are empty if none of `policies` may use them."""
    if key is None or not any(mentions(text, *ABOUT_THE_RESOURCE) for text in policies):
        return (), {}
    aliases = await reader.aliases_after(key.account, "", EVERY, key_id=key.key_id, now=now)
    return tuple(alias.name for alias in aliases), await reader.tags_of(key.key_id)
