"""Whether a token and the database of a backup belong together, and what each of them lacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.backup.manifest import Manifest
from kmsd.custody.provisioning import AUDIT
from kmsd.domain.material import MaterialStatus
from kmsd.domain.wrapping import TokenName
from kmsd.ports import ObjectReport, ServiceKey, Store, Token, TokenObject


class OtherToken(Exception):
    """The token is not the one of this database; the text says how that shows."""


class Comparison(msgspec.Struct, frozen=True):
    """Both, side by side."""

    missing: tuple[TokenObject, ...]
    """Objects that the database promises and the token does not hold: their keys become Unavailable."""
    unknown: tuple[ObjectReport, ...]
    """Objects in the token that the database does not know: left alone."""
    doomed: int
    """Objects whose destruction was under way: the daemon carries it out when it starts."""
    key_ids: frozenset[str]
    """All keys of the database."""


async def compare(database: Path, token: Token, manifest: Manifest) -> Comparison:
    """Raises `OtherToken`, `TokenUnavailable`, `StoreUnavailable`. Nothing is changed.

    They know each other by the ids of the daemon's own objects, which are random and occur in no other token, and by
    the audit key: its public half in the token must be the one that the manifest is signed by.
    """
    store = SqliteStore(database)
    try:
        books = await store.read()
        rows = {row.object_id: row for row in await books.token_objects() if row.token is TokenName.MAIN}
        present = {found.object_id: found for found in await token.list_objects()}
        await _belong_together(await books.service_keys(), present.keys(), token, manifest)
    finally:
        await store.close()
    promised = (MaterialStatus.READY, MaterialStatus.MISSING)
    return Comparison(
        tuple(row for row in rows.values() if row.status in promised and row.object_id not in present),
        tuple(found for object_id, found in present.items() if object_id not in rows),
        sum(row.status is MaterialStatus.DESTROYING for row in rows.values()),
        frozenset(row.owner.rpartition(":")[2] for row in rows.values()),
    )


async def _belong_together(
    own: Mapping[str, ServiceKey], present: Collection[bytes], token: Token, manifest: Manifest
) -> None:
    here = f"the token {token.info.label!r} of serial {token.info.serial}"
    there = f"(the backup is of {manifest.token.label!r}, serial {manifest.token.serial})"
    if AUDIT not in own:
        raise OtherToken("the database names no audit key")
    lacking = sorted(purpose for purpose, key in own.items() if key.object_id not in present)
    if lacking:
        raise OtherToken(f"{here} lacks the daemon's own objects for {', '.join(lacking)} {there}")
    if await token.public_key(own[AUDIT].object_id) != manifest.audit_key:
        raise OtherToken(f"{here} has another audit key than the one that signed this backup {there}")


async def mark_missing(store: Store, missing: tuple[TokenObject, ...]) -> None:
    """From now on the keys behind these objects are Unavailable: nobody is told "not authentic" for "not there"."""
    async with store.write() as transaction:
        for row in missing:
            if row.status is MaterialStatus.READY:
                await transaction.set_object_status(row.object_id, MaterialStatus.READY, MaterialStatus.MISSING)
