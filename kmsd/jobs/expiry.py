"""Destruction of imported material in the token after its ValidTo."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import imported_material, token_objects
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, Token, TokenError
from kmsd.ports.jobs import BATCH, JobRecorder, JobReport


class ExpiryReport(JobReport):
    """Report of one run."""

    expired: list[str] = []
    """ARNs of keys whose material was destroyed."""


async def run_once(store: Store, token: Token, now: datetime, record: JobRecorder) -> ExpiryReport:
    """Destroy every material that is past its ValidTo at `now`. Idempotent; one bad key does not stop the sweep."""
    report = ExpiryReport()
    reader = await store.read()
    for key_id in await reader.keys_due(DueKind.EXPIRY, now, BATCH):
        try:
            arn = await _expire(store, token, key_id, now, record)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key_id}: {exc}")
        else:
            if arn:
                report.expired.append(arn)
    return report


async def _expire(store: Store, token: Token, key_id: str, now: datetime, record: JobRecorder) -> str:
    """Destroy one key's material; return the key's ARN, or "" if it is no longer due."""
    await token.check()
    async with store.write() as transaction:
        key = await transaction.key(key_id)
        if key is None or key.current_material is None or key.valid_to is None or now < key.valid_to:
            return ""
        destroying = await imported_material.delete(transaction, key)
        await record("DeleteExpiredKeyMaterial", key, {"keyMaterialId": key.current_material.key_material_id})
    if destroying is not None:
        await token_objects.destroy(store, token, destroying)
    return key.arn
