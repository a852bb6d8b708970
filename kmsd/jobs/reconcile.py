"""Reconciliation of store and token: finish interrupted creations and destructions, detect missing objects.

Three rules hold without exception. An object is destroyed only if its own row says that it was never promised to a
client (`creating`) or that it is marked for destruction (`destroying`). Metadata is never deleted because the token
lacks an object. An object without a row is reported and left alone: it may belong to another daemon, or be newer than a
restored database.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from msgspec.structs import replace

from kmsd.custody import token_objects
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.material import MaterialStatus, TokenName
from kmsd.ports import (
    ObjectReport,
    Store,
    StoreConflict,
    StoreError,
    TamperedMaterial,
    Token,
    TokenError,
    TokenObject,
)
from kmsd.ports.jobs import JobReport

INTENT_GRACE = timedelta(minutes=10)
"""Age from which an intent is rolled back. A younger one may belong to a running call, unless its process has ended."""


SAMPLE = 200
"""Wrapped materials of each domain key whose rows one run verifies, from a random one on."""

OTHER_PUBLIC_KEY = "its public key is not the one that the database has"
"""Problem of a pair that was exchanged. The key becomes unavailable, as if the pair were missing."""


class ReconcileReport(JobReport):
    """Report of one run."""

    undone: list[bytes] = []
    """Unfinished intents that were rolled back."""
    destroyed: list[bytes] = []
    """Objects whose interrupted destruction was completed."""
    missing: list[bytes] = []
    """Objects that a key needs and the token does not hold: the key's state is Unavailable. Raises an alarm."""
    returned: list[bytes] = []
    """Objects that were missing and are present again."""
    unknown: list[ObjectReport] = []
    """Objects with our label that no row names."""
    malformed: list[ObjectReport] = []
    """Objects without an attribute that their role requires."""
    domain_keys_missing: list[bytes] = []
    """Domain keys that the token does not hold. If no other HSM does, all keys under them are Unavailable. Raises one
    alarm."""
    tampered: list[bytes] = []
    """Wrapped materials whose row was changed by something else than the daemon. Raises an alarm."""


async def run_once(
    store: Store, token: Token, now: datetime, *, grace: timedelta = INTENT_GRACE, name: TokenName = TokenName.MAIN
) -> ReconcileReport:
    """Run one sweep over `token`, which the store knows as `name`. Idempotent; one bad object does not stop it.

    Raises `TokenUnavailable` and `StoreUnavailable` if there is nothing to compare; nothing is changed then.
    """
    report = ReconcileReport()
    # Read rows before objects. Otherwise, objects created or destroyed in between would appear unknown or missing.
    reader = await store.read()
    rows = {row.object_id: row for row in await reader.token_objects() if row.token == name}
    stored_keys = await reader.public_keys()
    domain_keys = [one for one in await reader.domain_keys() if one.token == name]
    found = [_compared(one, rows, stored_keys) for one in await token.list_objects()]
    present = {one.object_id for one in found} - {one.object_id for one in found if one.problem == OTHER_PUBLIC_KEY}
    await token.check()
    for row in rows.values():
        try:
            await _resolve(store, token, row, is_present=row.object_id in present, too_old=now - grace, report=report)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"{row.owner} {row.object_id.hex()}: {exc}")
    await _resolve_domain_keys(store, token, domain_keys, present, report)
    reader, unknown = await store.read(), {}
    of_domain_keys = {one.domain_key_id for one in await reader.domain_keys() if one.token == name}
    for one in found:
        if one.object_id in of_domain_keys:
            report.malformed += [one] if one.problem else []
        elif one.object_id not in rows and await reader.token_object(one.object_id) is None:
            unknown[one.object_id] = one
        elif one.problem:
            report.malformed.append(one)
    report.unknown += unknown.values()
    return report


def _compared(
    found: ObjectReport, rows: Mapping[bytes, TokenObject], stored_keys: Mapping[bytes, bytes]
) -> ObjectReport:
    """Return the report of an object, with a problem if it is well formed and is not what the database says."""
    row = rows.get(found.object_id)
    if found.problem or row is None:
        return found
    if found.kind != "public" and found.imported != row.owner.startswith(token_objects.IMPORTED):
        return replace(found, problem="its value is not of the origin that the database says")
    if found.kind == "public" and stored_keys.get(found.object_id, found.public_key) != found.public_key:
        return replace(found, problem=OTHER_PUBLIC_KEY)
    return found


async def _resolve(
    store: Store, token: Token, row: TokenObject, *, is_present: bool, too_old: datetime, report: ReconcileReport
) -> None:
    match row.status:
        case MaterialStatus.CREATING if row.owner_is_dead or row.created_at <= too_old:
            await token_objects.roll_back(store, token, row.object_id)
            report.undone.append(row.object_id)
        case MaterialStatus.DESTROYING:
            await token_objects.destroy(store, token, row.object_id)
            report.destroyed.append(row.object_id)
        case MaterialStatus.READY if not is_present:
            if await _swap(store, row.object_id, MaterialStatus.READY, MaterialStatus.MISSING):
                report.missing.append(row.object_id)
        case MaterialStatus.MISSING if is_present:
            if await _swap(store, row.object_id, MaterialStatus.MISSING, MaterialStatus.READY):
                report.returned.append(row.object_id)
        case MaterialStatus.MISSING:
            report.missing.append(row.object_id)
        case _:
            pass


async def _resolve_domain_keys(
    store: Store, token: Token, domain_keys: Iterable[DomainKey], present: Collection[bytes], report: ReconcileReport
) -> None:
    """Record which domain keys are missing, complete a destruction, and verify a sample of what the others wrap."""
    reader = await store.read()
    holders, counts = await reader.domain_key_holders(), await reader.wrapped_counts()
    for domain_key in domain_keys:
        name, is_present = domain_key.domain_key_id, domain_key.domain_key_id in present
        try:
            if domain_key.state is DomainKeyState.DESTROYED:
                if is_present:
                    await token.destroy(name)
                    report.destroyed.append(name)
                continue
            if not await _set_presence(store, domain_key, holders.get(name, frozenset()), is_present=is_present):
                continue
            if not is_present:
                # Another HSM may have domain keys of earlier, or later, ceremonies for itself.
                if domain_key.is_needed(counts.get(name, 0)) or holders.get(name, frozenset()) <= {reader.hsm}:
                    report.domain_keys_missing.append(name)
                continue
            if domain_key.is_missing:
                report.returned.append(name)
            report.tampered += await changed_rows(store, token, name, SAMPLE)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"domain key {name.hex()}: {exc}")


async def _set_presence(store: Store, domain_key: DomainKey, holders: Collection[str], *, is_present: bool) -> bool:
    """Record if this HSM holds a domain key. False if `kmsd domain-key destroy` has destroyed it in the meantime.

    `holders` are the HSMs that hold it, as it is recorded.
    """
    own = (await store.read()).hsm
    is_alone = not (set(holders) - {own})
    if (own in holders) is is_present and domain_key.is_missing is (is_alone and not is_present):
        return True
    async with store.write() as transaction:
        rows = {one.domain_key_id: one.state for one in await transaction.domain_keys()}
        if rows[domain_key.domain_key_id] is DomainKeyState.DESTROYED:
            return False
        await transaction.set_domain_key_held(domain_key.domain_key_id, is_held=is_present)
    return True


async def changed_rows(store: Store, token: Token, domain_key_id: bytes, count: int) -> list[bytes]:
    """Return the wrapped materials whose rows were changed, of `count` under a domain key, others in each run.

    Raises `TokenError`, `StoreError`.
    """
    reader, start = await store.read(), secrets.token_bytes(16)
    sample = list(await reader.wrapped_under(domain_key_id, start, count))
    if len(sample) < count:
        first = await reader.wrapped_under(domain_key_id, b"", count - len(sample))
        sample += [one for one in first if one.material_id <= start]
    changed = []
    for material in sample:
        try:
            await token.custody.require_bound(material)
        except TamperedMaterial:
            changed.append(material.material_id)
    return changed


async def _swap(store: Store, object_id: bytes, old: MaterialStatus, new: MaterialStatus) -> bool:
    """Change the row's status. False if another process has changed it first."""
    try:
        async with store.write() as transaction:
            await transaction.set_object_status(object_id, old, new)
    except StoreConflict:
        return False
    return True
