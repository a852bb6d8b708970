"""A key: what a client sees of it, and the materials that stand behind it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.key_state import TRANSITIONS, KeyState, Transition
from kmsd.domain.material import Material, MaterialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_ROTATION_DAYS = 365
"""Days between two rotations where EnableKeyRotation names no period."""


class Origin(StrEnum):
    """Where a key's material comes from."""

    AWS_KMS = "AWS_KMS"
    """Generated in the token. (The wire's word; it means this daemon.)"""
    EXTERNAL = "EXTERNAL"
    """Imported by the client, unwrapped in the token."""


class ExpirationModel(StrEnum):
    """Whether imported material has an end."""

    EXPIRES = "KEY_MATERIAL_EXPIRES"
    DOES_NOT_EXPIRE = "KEY_MATERIAL_DOES_NOT_EXPIRE"


class Key(msgspec.Struct, frozen=True):
    """One key as the store holds it. Instants are aware and in UTC."""

    key_id: str
    """UUID in lower case."""
    account: str
    arn: str
    description: str
    origin: Origin
    state: KeyState
    """As stored; what counts is `state_at`."""
    policy: str
    created_at: datetime
    current_material: Material | None
    """What new blobs are sealed under; None: nothing imported yet, or it was deleted."""
    materials: Mapping[bytes, Material] = {}
    """All materials that are not destroyed, by material id."""
    deletion_at: datetime | None = None
    pending_window_days: int | None = None
    valid_to: datetime | None = None
    expiration_model: ExpirationModel | None = None
    rotation_period_days: int | None = None
    """None: rotation is off."""
    next_rotation_at: datetime | None = None
    spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT

    def exists_at(self, now: datetime) -> bool:
        """False from the instant at which the deletion is due, whether or not the job has run."""
        return self.deletion_at is None or now < self.deletion_at

    def state_at(self, now: datetime) -> KeyState:
        """The state at `now`: expired material behaves as deleted from the instant `valid_to`."""
        if self.state is KeyState.PENDING_DELETION:
            return self.state
        if self.valid_to is not None and now >= self.valid_to:
            return KeyState.PENDING_IMPORT
        material = self.current_material
        if self.state is KeyState.ENABLED and material is not None and material.status is MaterialStatus.MISSING:
            return KeyState.UNAVAILABLE
        return self.state

    def material_at(self, now: datetime) -> Material | None:
        """What to seal under at `now`."""
        if self.valid_to is not None and now >= self.valid_to:
            return None
        return self.current_material

    def after(self, event: Transition) -> Key:
        """The key once `event` has happened to its state. The table refused impossible events before."""
        return replace(self, state=TRANSITIONS[self.state][event])
