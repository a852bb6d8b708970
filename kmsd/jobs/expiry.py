"""Destruction of imported material in the token after its ValidTo."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import imported_material, token_objects
from kmsd.domain.material import key_material_id
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, Token, TokenError, Tokens
from kmsd.ports.jobs import BATCH, JobRecorder, JobReport


class ExpiryReport(JobReport):
    """Report of one run."""

    expired: list[str] = []
    """ARNs of keys of which material was destroyed."""


async def run_once(store: Store, tokens: Tokens, now: datetime, record: JobRecorder) -> ExpiryReport:
    """Destroy every material that is past its ValidTo at `now`. Idempotent; one bad key does not stop the sweep."""
    report = ExpiryReport()
    reader = await store.read()
    for key_id in await reader.keys_due(DueKind.EXPIRY, now, BATCH):
        try:
            arn = await _expire(store, tokens.main, key_id, now, record)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key_id}: {exc}")
        else:
            if arn:
                report.expired.append(arn)
    return report


async def _expire(store: Store, token: Token, key_id: str, now: datetime, record: JobRecorder) -> str:
    """Destroy one key's expired materials; return the key's ARN, or "" if none is expired any more."""
    await token.check()
    arn = ""
    for imported in await (await store.read()).imported_materials(key_id):
        if imported.is_expired(now):
            arn = await _destroy(store, token, (key_id, imported.material_id), now, record) or arn
    return arn


async def _destroy(store: Store, token: Token, expired: tuple[str, bytes], now: datetime, record: JobRecorder) -> str:
    """Destroy one material of a key; return the key's ARN, or "" if the material is no longer due."""
    key_id, material_id = expired
    async with store.write() as transaction:
        key = await transaction.key(key_id)
        known = await transaction.imported_materials(key_id)
        due = next((one for one in known if one.material_id == material_id and one.is_expired(now)), None)
        if key is None or due is None or await imported_material.delete(transaction, key, due, now) is None:
            return ""
        await record("DeleteExpiredKeyMaterial", key, {"keyMaterialId": key_material_id(material_id)})
    await token_objects.destroy(store, token, material_id)
    return key.arn
