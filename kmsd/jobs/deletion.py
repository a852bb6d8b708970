"""Carry out what ScheduleKeyDeletion promised: after its date a key, its material, aliases and grants are gone."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import token_objects
from kmsd.domain.material import MaterialStatus
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, Token, TokenError
from kmsd.ports.jobs import BATCH, JobRecorder, JobReport


class DeletionReport(JobReport):
    """What one run did."""

    deleted: list[str] = []
    """ARNs of keys that no longer exist."""


async def run_once(store: Store, token: Token, now: datetime, record: JobRecorder) -> DeletionReport:
    """Delete every key that is due at `now`. Idempotent; one bad key does not stop the sweep."""
    report = DeletionReport()
    reader = await store.read()
    for key_id in await reader.keys_due(DueKind.DELETION, now, BATCH):
        try:
            arn = await _delete(store, token, key_id, now, record)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key_id}: {exc}")
        else:
            if arn:
                report.deleted.append(arn)
    return report


async def _delete(store: Store, token: Token, key_id: str, now: datetime, record: JobRecorder) -> str:
    """Delete one key; its ARN, or nothing if it is not due any more."""
    await token.check()
    async with store.write() as transaction:
        key = await transaction.key(key_id)
        if key is None or key.exists_at(now):
            return ""
        destroying = [material.material_id for material in key.materials.values()]
        for material in key.materials.values():
            await transaction.set_object_status(material.material_id, material.status, MaterialStatus.DESTROYING)
        await transaction.delete_key(key_id)
        await record("DeleteKey", key, {})
    # From here on it is certain: what is interrupted is finished by reconcile, which knows the doomed objects.
    for object_id in destroying:
        await token_objects.destroy(store, token, object_id)
    return key.arn
