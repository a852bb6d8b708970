"""Deletion of keys after the date set by ScheduleKeyDeletion, with their material, aliases and grants."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import token_objects
from kmsd.domain.material import TokenName
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, TokenError, Tokens
from kmsd.ports.jobs import BATCH, JobRecorder, JobReport


class DeletionReport(JobReport):
    """Report of one run."""

    deleted: list[str] = []
    """ARNs of deleted keys."""


async def run_once(store: Store, tokens: Tokens, now: datetime, record: JobRecorder) -> DeletionReport:
    """Delete every key that is due at `now`. Idempotent; one bad key does not stop the sweep."""
    report = DeletionReport()
    reader = await store.read()
    for key_id in await reader.keys_due(DueKind.DELETION, now, BATCH):
        try:
            arn = await _delete(store, tokens, key_id, now, record)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key_id}: {exc}")
        else:
            if arn:
                report.deleted.append(arn)
    return report


async def _delete(store: Store, tokens: Tokens, key_id: str, now: datetime, record: JobRecorder) -> str:
    """Delete one key; return its ARN, or "" if it is no longer due."""
    found = await (await store.read()).key(key_id)
    for name in {TokenName.MAIN} if found is None else {material.token for material in found.materials.values()}:
        if not name.is_elsewhere:
            await tokens[name].check()
    async with store.write() as transaction:
        key = await transaction.key(key_id)
        if key is None or key.exists_at(now):
            return ""
        destroying = [
            material
            for material in key.materials.values()
            if material.wrapped is None and not material.token.is_elsewhere
        ]
        for material in key.materials.values():
            await token_objects.mark_destroying(transaction, material)
        await transaction.delete_key(key_id)
        for material in key.materials.values():
            await token_objects.delete_wrapped(transaction, material, now)
        await record("DeleteKey", key, {})
    # The deletion is now committed. If it is interrupted, reconcile destroys the objects marked `destroying`.
    for material in destroying:
        await token_objects.destroy(store, tokens.of(material), material.material_id)
    return key.arn
