"""A key: its attributes in the API, and its key materials."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kmsd.domain.key_spec import SYMMETRIC_DEFAULT, KeySpec, KeyUsage
from kmsd.domain.key_state import TRANSITIONS, KeyState, Transition
from kmsd.domain.material import Material, MaterialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_ROTATION_DAYS = 365
"""Days between two rotations if EnableKeyRotation names no period."""


class Origin(StrEnum):
    """Origin of a key's material."""

    AWS_KMS = "AWS_KMS"
    """Generated in the token. (The API's word; here it means kmsd.)"""
    EXTERNAL = "EXTERNAL"
    """Imported by the client, unwrapped in the token."""


class ExpirationModel(StrEnum):
    """Expiration of imported material."""

    EXPIRES = "KEY_MATERIAL_EXPIRES"
    DOES_NOT_EXPIRE = "KEY_MATERIAL_DOES_NOT_EXPIRE"


class Key(msgspec.Struct, frozen=True):
    """A key as the store holds it. Times are aware and in UTC."""

    key_id: str
    """UUID in lower case."""
    account: str
    arn: str
    description: str
    origin: Origin
    state: KeyState
    """Stored state. `state_at` gives the effective one."""
    policy: str
    created_at: datetime
    current_material: Material | None
    """Material that encrypts new blobs. None: nothing imported yet, or it was deleted."""
    materials: Mapping[bytes, Material] = {}
    """All materials that are not destroyed, by material id."""
    deletion_at: datetime | None = None
    pending_window_days: int | None = None
    valid_to: datetime | None = None
    expiration_model: ExpirationModel | None = None
    rotation_period_days: int | None = None
    """None if automatic rotation is off."""
    next_rotation_at: datetime | None = None
    spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT
    algorithms: tuple[str, ...] = (SYMMETRIC_DEFAULT,)
    """API names of the algorithms that its token offers for it, recorded at creation."""

    def exists_at(self, now: datetime) -> bool:
        """False from the instant at which the deletion is due, even before the job has run."""
        return self.deletion_at is None or now < self.deletion_at

    def state_at(self, now: datetime) -> KeyState:
        """Return the state at `now`. Expired material counts as deleted from the instant `valid_to`."""
        if self.state is KeyState.PENDING_DELETION:
            return self.state
        if self.valid_to is not None and now >= self.valid_to:
            return KeyState.PENDING_IMPORT
        material = self.current_material
        if self.state is KeyState.ENABLED and material is not None and material.status is MaterialStatus.MISSING:
            return KeyState.UNAVAILABLE
        return self.state

    def material_at(self, now: datetime) -> Material | None:
        """Return the material that encrypts at `now`; None if it has expired or there is none."""
        if self.valid_to is not None and now >= self.valid_to:
            return None
        return self.current_material

    def after(self, event: Transition) -> Key:
        """Return the key in its state after `event`. `Usable` has refused impossible events before."""
        return replace(self, state=TRANSITIONS[self.state][event])
