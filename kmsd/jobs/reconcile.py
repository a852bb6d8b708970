"""Settle what store and token disagree about: intents and destructions unfinished, objects missing.

Three rules that are never bent. An object is destroyed only if its own row says that nobody was promised
it (`creating`) or that it is doomed (`destroying`). Metadata is never deleted because the token lacks an
object. An object without a row is reported and left alone: it may be another daemon's, or newer than a
restored database.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from kmsd.custody import token_objects
from kmsd.domain.key_import import TokenName
from kmsd.domain.material import MaterialStatus
from kmsd.ports import ObjectReport, Store, StoreConflict, StoreError, Token, TokenError, TokenObject
from kmsd.ports.jobs import JobReport

INTENT_GRACE = timedelta(minutes=10)
"""A younger intent may belong to a call that is still under way in another process; unless that has ended."""


class ReconcileReport(JobReport):
    """What one run found and did."""

    undone: list[bytes] = []
    """Unfinished intents, taken back."""
    destroyed: list[bytes] = []
    """Destructions carried out."""
    missing: list[bytes] = []
    """Objects that a key needs and the token does not hold: its state is Unavailable. An alarm."""
    returned: list[bytes] = []
    """Objects that were missing and are there again."""
    unknown: list[ObjectReport] = []
    """Objects of our label that no row names."""
    malformed: list[ObjectReport] = []
    """Objects that lack an attribute their role promises."""


async def run_once(
    store: Store, token: Token, now: datetime, *, grace: timedelta = INTENT_GRACE, name: TokenName = TokenName.MAIN
) -> ReconcileReport:
    """One sweep over `token`, which the store knows as `name`. Idempotent; one bad object does not stop it.

    Raises `TokenUnavailable` and `StoreUnavailable` if there is nothing to compare: then nothing was changed.
    """
    report = ReconcileReport()
    # Rows before objects: an object made after the rows were read would else seem unknown, and one destroyed, missing.
    reader = await store.read()
    rows = {row.object_id: row for row in await reader.token_objects() if row.token is name}
    present = {found.object_id: found for found in await token.list_objects()}
    await token.check()
    for row in rows.values():
        try:
            await _resolve(store, token, row, is_present=row.object_id in present, too_old=now - grace, report=report)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"{row.owner} {row.object_id.hex()}: {exc}")
    reader = await store.read()
    for object_id, found in present.items():
        if object_id not in rows and await reader.token_object(object_id) is None:
            report.unknown.append(found)
        elif found.problem:
            report.malformed.append(found)
        elif object_id in rows and found.imported != rows[object_id].owner.startswith(token_objects.IMPORTED):
            report.malformed.append(replace(found, problem="its value is not of the origin that the database says"))
    return report


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


async def _swap(store: Store, object_id: bytes, old: MaterialStatus, new: MaterialStatus) -> bool:
    """Whether the row was still as it was read; another process may have been quicker."""
    try:
        async with store.write() as transaction:
            await transaction.set_object_status(object_id, old, new)
    except StoreConflict:
        return False
    return True
