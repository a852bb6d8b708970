"""Comparison of a token with the database of a backup: do they belong together, and what does each lack."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.adapters.sqlite.database import SqliteDatabase
from kmsd.backup.manifest import Manifest, holds
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key_spec import SigningAlgorithm
from kmsd.domain.material import MaterialStatus, TokenName
from kmsd.ports import AUDIT, ObjectReport, Reader, ServiceKey, Store, Token, TokenError, TokenObject, TokenUnavailable

PROMISED = (MaterialStatus.READY, MaterialStatus.MISSING)
"""Statuses of objects that the token should hold."""


class TokenMismatch(Exception):
    """The token is not the one of this database; the text names the evidence."""


class TokenComparison(msgspec.Struct, frozen=True):
    """Differences between the database and one token."""

    token: TokenName
    missing: tuple[TokenObject, ...]
    """Objects that the database lists as existing and the token does not hold: their keys become Unavailable."""
    unfit: tuple[ObjectReport, ...]
    """Objects that the database lists and that lack an attribute of their role: the daemon did not create them so."""
    unknown: tuple[ObjectReport, ...]
    """Objects in the token that the database does not know: left alone."""
    destroying: int
    """Objects whose destruction had begun: the daemon finishes it when it starts."""
    domain_keys: tuple[tuple[DomainKey, int], ...] = ()
    """Domain keys that the token does not hold, and how much material each wraps: those keys become Unavailable."""


async def compare(database: Path, token: Token, manifest: Manifest) -> TokenComparison:
    """Compare the main token without a change. Raises `TokenMismatch`, `TokenUnavailable`, `StoreUnavailable`.

    They are matched by the ids of the daemon's own objects, which are random and occur in no other token, and by the
    audit key: the token must sign with the private half of the key that signed the manifest. The public half in the
    token proves nothing: SoftHSM2 keeps it in the clear.
    """
    async with SqliteDatabase(database).open() as store:
        reader = await store.read()
        elsewhere = {row.object_id for row in await reader.token_objects() if row.token != TokenName.MAIN}
        service_keys = await reader.service_keys()
        own = {
            purpose: key
            for purpose, key in service_keys.items()
            if key.object_id not in elsewhere and key.wrapped is None
        }
        listed = await token.list_objects()
        await _belong_together(own, {found.object_id for found in listed}, token, manifest)
        return await differences(reader, TokenName.MAIN, token, listed)


async def differences(reader: Reader, name: TokenName, token: Token, listed: Sequence[ObjectReport]) -> TokenComparison:
    """Compare the rows of a token, which is the one of this database, with the objects `listed` in it.

    Raises `TokenMismatch` if it holds a domain key that does not open what the database says of it, `TokenUnavailable`.
    """
    rows = {row.object_id: row for row in await reader.token_objects() if row.token == name}
    present = {found.object_id for found in listed}
    domain_keys = [one for one in await reader.domain_keys() if one.token == name]
    promised = {object_id: row for object_id, row in rows.items() if row.status in PROMISED}
    known = rows.keys() | {one.domain_key_id for one in domain_keys}
    return TokenComparison(
        name,
        tuple(row for object_id, row in promised.items() if object_id not in present),
        tuple(found for found in listed if found.problem and found.object_id in promised),
        tuple({found.object_id: found for found in listed if found.object_id not in known}.values()),
        sum(row.status is MaterialStatus.DESTROYING for row in rows.values()),
        await _lost_domain_keys(reader, domain_keys, token, present),
    )


async def _lost_domain_keys(
    reader: Reader, domain_keys: Iterable[DomainKey], token: Token, present: Collection[bytes]
) -> tuple[tuple[DomainKey, int], ...]:
    """Return the domain keys that the token lacks, and the number of materials under each.

    One that wraps nothing and has retired is not lost: after a rotation the backup is made before it is destroyed.
    Those that the token has are proven: what the database says of them must open with them. Raises `TokenMismatch`.
    """
    counts, lost = await reader.wrapped_counts(), []
    for domain_key in domain_keys:
        if domain_key.state is DomainKeyState.DESTROYED:
            continue
        if domain_key.domain_key_id not in present:
            materials = counts.get(domain_key.domain_key_id, 0)
            lost += [(domain_key, materials)] if domain_key.is_needed(materials) else []
            continue
        try:
            await token.custody.prove(domain_key)
        except TokenUnavailable:
            raise
        except TokenError as exc:
            text = f"its domain key {domain_key.domain_key_id.hex()} is not that of this database"
            raise TokenMismatch(f"the token {token.info.label!r}: {text} ({exc})") from exc
    return tuple(lost)


async def _belong_together(
    own: Mapping[str, ServiceKey], present: Collection[bytes], token: Token, manifest: Manifest
) -> None:
    here = f"the token {token.info.label!r} of serial {token.info.serial}"
    there = f"(the backup is of {manifest.token.label!r}, serial {manifest.token.serial})"
    if AUDIT not in own:
        raise TokenMismatch("the database names no audit key")
    lacking = sorted(purpose for purpose, key in own.items() if key.object_id not in present)
    if lacking:
        raise TokenMismatch(f"{here} lacks the daemon's own objects for {', '.join(lacking)} {there}")
    if await token.public_key(own[AUDIT].object_id) != manifest.audit_key:
        raise TokenMismatch(f"{here} has another audit key than the one that signed this backup {there}")
    if not await _signs(token, own[AUDIT].object_id, manifest.audit_key):
        raise TokenMismatch(
            f"{here} shows the public half of the key that signed this backup and does not sign with the private half: "
            f"the backup, or the token, was forged {there}"
        )


async def _signs(token: Token, object_id: bytes, audit_key: bytes) -> bool:
    """True if the token signs a fresh challenge with the private half of `audit_key`.

    Raises `TokenUnavailable`.
    """
    challenge = b"kmsd restore challenge 1\n" + secrets.token_bytes(32)
    key = serialization.load_der_public_key(audit_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        digest = sha256(challenge).digest()
        signature = await token.sign(object_id, SigningAlgorithm.ECDSA_SHA_256, digest, is_digest=True)
    except TokenUnavailable:
        raise
    except TokenError:
        # The object is not a private key that this token can use.
        return False
    return holds(key, signature, challenge)


async def mark_missing(store: Store, compared: Iterable[TokenComparison]) -> None:
    """Make the keys of what is missing Unavailable, so that clients do not read "not authentic" for "missing"."""
    async with store.write() as transaction:
        for one in compared:
            for domain_key, _ in one.domain_keys:
                if not domain_key.is_missing:
                    await transaction.set_domain_key_held(domain_key.domain_key_id, is_held=False)
            for row in one.missing:
                if row.status is MaterialStatus.READY:
                    await transaction.set_object_status(row.object_id, MaterialStatus.READY, MaterialStatus.MISSING)
