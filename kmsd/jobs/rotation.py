"""Automatic rotation: new material for keys whose rotation period, or message limit, is reached."""

from __future__ import annotations

from datetime import datetime

from kmsd.custody import rotation, token_objects
from kmsd.custody.message_counts import ROTATE_AT_MESSAGES
from kmsd.domain.key import Key
from kmsd.domain.key_state import Usable
from kmsd.domain.material import Material, RotationType
from kmsd.ports import AuditUnavailable, DueKind, Store, StoreError, TokenError, Tokens
from kmsd.ports.jobs import BATCH, JobRecorder, JobReport


class RotationReport(JobReport):
    """Report of one run."""

    rotated: list[str] = []
    """ARNs of keys with a new material."""


async def run_once(store: Store, tokens: Tokens, now: datetime, record: JobRecorder) -> RotationReport:
    """Rotate every enabled key that is due at `now`, once, however many periods were missed.

    A key whose material has encrypted half of its message limit is due as well, whether or not its rotation is enabled.
    Idempotent; one bad key does not stop the sweep. Keys that are disabled or pending deletion are skipped.
    """
    report = RotationReport()
    reader = await store.read()
    worn = await reader.worn_keys(ROTATE_AT_MESSAGES)
    for key_id in {*await reader.keys_due(DueKind.ROTATION, now, BATCH), *worn}:
        key = await reader.key(key_id)
        if key is None:
            continue
        material = key.current_material if key_id in worn else None
        if not _due(key, now, material):
            continue
        created: list[bytes] = []
        try:
            created_material = await rotation.create(store, tokens, key, now, RotationType.AUTOMATIC, created=created)
            async with store.write() as transaction:
                current = await transaction.key(key_id)
                if current is not None and _due(current, now, material):
                    next_at = rotation.next_rotation(current, now)
                    await rotation.make_current(transaction, current, created_material, next_at=next_at)
                    await record("RotateKey", current, {"rotationType": created_material.rotation_type})
                    created.clear()
            await token_objects.roll_back_new(store, tokens, created)
        except (StoreError, TokenError, AuditUnavailable) as exc:
            report.failed.append(f"{key.arn}: {exc}")
            await _discard_quietly(store, tokens, created, report)
        else:
            report.rotated.append(key.arn)
    return report


def _due(key: Key, now: datetime, worn: Material | None) -> bool:
    """True if a key must be rotated: its date has come, or it still has the worn material."""
    if not Usable.ROTATION.allows(key.state):
        return False
    is_worn = worn is not None and key.current_material == worn
    return is_worn or (key.next_rotation_at is not None and key.next_rotation_at <= now)


async def _discard_quietly(store: Store, tokens: Tokens, created: list[bytes], report: RotationReport) -> None:
    try:
        await token_objects.roll_back_new(store, tokens, created)
    except (StoreError, TokenError) as exc:
        report.failed.append(f"an unused object is left to reconcile: {exc}")
