"""Carry out ValidTo: imported material that has expired is destroyed in the token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from kmsd.custody import objects
from kmsd.domain.key_state import Event
from kmsd.domain.material import MaterialStatus
from kmsd.jobs.model import BATCH, JobRecorder
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, Token, TokenError


@dataclass(slots=True)
class Report:
    """What one run did."""

    expired: list[str] = field(default_factory=list)
    """ARNs of keys whose material is gone."""
    failed: list[str] = field(default_factory=list)
    """What could not be done now; the next run tries again."""


async def run_once(store: Store, token: Token, now: datetime, record: JobRecorder) -> Report:
    """Destroy every material that is past its ValidTo at `now`. Idempotent; one bad key does not stop the sweep."""
    report = Report()
    books = await store.read()
    for key_id in await books.keys_due(DueKind.EXPIRY, now, BATCH):
        try:
            arn = await _expire(store, token, key_id, now, record)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key_id}: {exc}")
        else:
            if arn:
                report.expired.append(arn)
    return report


async def _expire(store: Store, token: Token, key_id: str, now: datetime, record: JobRecorder) -> str:
    """Expire one key's material; its ARN, or nothing if it is not due any more."""
    await token.check()
    async with store.write() as transaction:
        key = await transaction.key(key_id)
        if key is None or key.current_material is None or key.valid_to is None or now < key.valid_to:
            return ""
        material = key.current_material
        await transaction.set_object_status(material.material_id, material.status, MaterialStatus.DESTROYING)
        await transaction.forget_material(material.material_id)
        emptied = replace(key.after(Event.LOSE_MATERIAL), current_material=None, valid_to=None, expiration_model=None)
        await transaction.update_key(key, emptied)
        await record("DeleteExpiredKeyMaterial", key, {})
    await objects.carry_out_destruction(store, token, material.material_id)
    return key.arn
