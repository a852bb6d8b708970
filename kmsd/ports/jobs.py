"""What the jobs share: how many keys a run takes on, and how it tells the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from kmsd.domain.key import Key

BATCH = 100
"""Keys that one run takes on; a longer queue is worked off by the runs that follow at once."""


class JobReport(msgspec.Struct):
    """What one run of a job did: lists, one for each kind of thing that was done."""

    failed: list[str] = []
    """What could not be done now; the next run tries again."""

    def add(self, other: JobReport) -> None:
        """Include what a further run of the same job found and did."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))

    def counts(self) -> dict[str, int]:
        """How many of each; the audit trail has the names."""
        return {name: len(getattr(self, name)) for name in self.__struct_fields__}


class JobRecorder(Protocol):
    """Writes the record of a job's act; durable on return. Called before the transaction commits."""

    async def __call__(self, event_name: str, key: Key, details: Mapping[str, object]) -> None:
        """Raises `AuditUnavailable`: then the act must not happen."""
        ...


class JobFailed(Exception):
    """A job of another service could not be carried out now; the text says why."""


class RetentionJob(Protocol):
    """Removes what another service keeps in files and has promised to remove."""

    async def maintain(self, now: datetime) -> None:
        """Finish this process's own files. Called at each look. Raises `JobFailed`."""
        ...

    async def sweep(self, now: datetime) -> JobReport:
        """Remove what is too old or deleted. Called while this process holds the lease. Raises `JobFailed`."""
        ...
