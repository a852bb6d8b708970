"""What the jobs share: how many keys a run takes on, and how it tells the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kmsd.domain.key import Key

BATCH = 100
"""Keys that one run takes on; a longer queue is worked off by the runs that follow at once."""


class JobRecorder(Protocol):
    """Writes the record of a job's act; durable on return. Called before the transaction commits."""

    async def __call__(self, event_name: str, key: Key, details: Mapping[str, object]) -> None:
        """Raises `AuditUnavailable`: then the act must not happen."""
        ...
