"""Rotation: a key gets new current material. Earlier materials still decrypt what they encrypted."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from kmsd.custody import key_material
from kmsd.domain.key import Key
from kmsd.domain.material import Material, RotationType
from kmsd.ports import Store, Tokens, Transaction


async def create(
    store: Store, tokens: Tokens, key: Key, now: datetime, rotation_type: RotationType, *, created: list[bytes]
) -> Material:
    """Create material for `key` in the token that serves its spec now, under an intent (`key_material.generate`)."""
    placement = await key_material.place(tokens, key.spec, key.usage)
    material = await key_material.generate(store, tokens, key, placement.token, now=now, created=created)
    return replace(material, rotation_type=rotation_type)


async def make_current(transaction: Transaction, key: Key, made: Material, *, next_at: datetime | None = None) -> None:
    """Make `made` the key's current material. `next_at` is the next automatic rotation, if it changes."""
    await key_material.add(transaction, key.key_id, made)
    changed = replace(key, current_material=made, next_rotation_at=next_at or key.next_rotation_at)
    await transaction.update_key(key, changed)


def next_rotation(key: Key, now: datetime) -> datetime | None:
    """Return the next rotation of a key that is rotated at `now`: one period later, regardless of downtime."""
    return None if key.rotation_period_days is None else now + timedelta(days=key.rotation_period_days)
