"""Comparison of the further tokens with the database of a backup.

A token is the one of this database if it holds the sentinel that the daemon made in it. A token without AES has no
sentinel; there one object or domain key of the database is the evidence, because the ids are random. The import token
is not compared: it holds wrapping keys, which live for a day.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.app import open_token, token_settings
from kmsd.backup import token_match
from kmsd.backup.token_match import PROMISED, TokenComparison
from kmsd.config.sections import Config
from kmsd.custody.provisioning import sentinel_purpose
from kmsd.domain.domain_key import DomainKeyState
from kmsd.domain.material import TokenName
from kmsd.ports import PinRefused, Reader, TokenError, TokenUnavailable

_PAGE = 1000
_NOT_CONFIGURED = "kmsd.toml does not name it any more"


class AbsentToken(msgspec.Struct, frozen=True):
    """A further token that was not compared, and what depends on it."""

    token: TokenName
    reason: str
    objects: int
    """Objects that it should hold, without the sentinel."""
    domain_keys: int
    """Domain keys that it should hold."""
    keys: int
    """Keys with material in it, or under one of its domain keys."""

    @property
    def is_needed(self) -> bool:
        """True if the database lists something in it besides the sentinel."""
        return self.objects + self.domain_keys > 0


class _Contents(msgspec.Struct, frozen=True):
    """Contents of a token, as the database lists them."""

    token: TokenName
    sentinel: bytes | None
    objects: dict[bytes, str]
    """Owners by object id, without the sentinel."""
    domain_keys: tuple[bytes, ...]


class FurtherTokens(msgspec.Struct, frozen=True):
    """Comparison of all further tokens that the database names."""

    compared: tuple[TokenComparison, ...]
    absent: tuple[AbsentToken, ...]


async def compare(config: Config, database: Path) -> FurtherTokens:
    """Compare each further token that the database names, without a change. No other token may be open.

    The search for an absent token restarts its module, and so ends every login of the same module.

    Raises `TokenMismatch` for a domain key that is not that of this database, `PinRefused`, `ConfigError`,
    `StoreUnavailable`.
    """
    compared, absent = [], []
    async with SqliteDatabase(database).open() as store:
        reader = await store.read()
        for contents in await _contents(reader):
            try:
                compared.append(await _compared(config, reader, contents))
            except PinRefused:
                raise
            except TokenError as exc:
                keys = await _count_keys(reader, contents)
                counts = (len(contents.objects), len(contents.domain_keys), keys)
                absent.append(AbsentToken(contents.token, str(exc), *counts))
    return FurtherTokens(tuple(compared), tuple(absent))


async def _contents(reader: Reader) -> list[_Contents]:
    """Return the contents of all further tokens, sorted by name."""
    rows = [
        row
        for row in await reader.token_objects(*PROMISED)
        if row.token not in (TokenName.MAIN, TokenName.IMPORT) and not row.token.is_elsewhere
    ]
    domain_keys = [
        one
        for one in await reader.domain_keys()
        if one.token != TokenName.MAIN and one.state is not DomainKeyState.DESTROYED
    ]
    service_keys, found = await reader.service_keys(), []
    for name in sorted({row.token for row in rows} | {one.token for one in domain_keys}):
        known = service_keys.get(sentinel_purpose(name))
        sentinel = None if known is None else known.object_id
        objects = {row.object_id: row.owner for row in rows if row.token == name and row.object_id != sentinel}
        found.append(
            _Contents(name, sentinel, objects, tuple(one.domain_key_id for one in domain_keys if one.token == name))
        )
    return found


async def _compared(config: Config, reader: Reader, contents: _Contents) -> TokenComparison:
    """Open one token and compare it. Raises `TokenError` if it is absent or another one, `TokenMismatch`."""
    if contents.token not in config.other_tokens:
        raise TokenUnavailable(_NOT_CONFIGURED)
    async with open_token(token_settings(config, contents.sentinel, contents.token)) as token:
        listed = await token.list_objects()
        await token.check()
        expected = {*contents.objects, *contents.domain_keys}
        if contents.sentinel is None and expected.isdisjoint({one.object_id for one in listed}):
            raise TokenUnavailable("it holds nothing of this database, and has no sentinel that says which token it is")
        return await token_match.differences(reader, contents.token, token, listed)


async def _count_keys(reader: Reader, contents: _Contents) -> int:
    """Return the number of keys that depend on a token."""
    keys = {owner.partition(":")[2] for owner in contents.objects.values() if owner.startswith(("key:", "imported:"))}
    for domain_key_id in contents.domain_keys:
        after = b""
        while page := await reader.wrapped_under(domain_key_id, after, _PAGE):
            keys.update(material.identity.key_id for material in page if not material.identity.is_own)
            after = page[-1].material_id
    return len(keys)
