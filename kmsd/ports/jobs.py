"""Interfaces of background jobs: batch size, reports, audit records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from kmsd.domain.key import Key

BATCH = 100
"""Keys that one run processes. Further runs follow immediately while there are more."""


class JobReport(msgspec.Struct):
    """Result of one run of a job: one list for each kind of action."""

    failed: list[str] = []
    """Actions that failed. The next run retries them."""

    def add(self, other: JobReport) -> None:
        """Append the report of a further run of the same job."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))

    def counts(self) -> dict[str, int]:
        """Return the length of each list. The audit trail has the names."""
        return {name: len(getattr(self, name)) for name in self.__struct_fields__}


class JobRecorder(Protocol):
    """Writes the audit record of a job's action. Durable on return. Called before the transaction commits."""

    async def __call__(self, event_name: str, key: Key, details: Mapping[str, object]) -> None:
        """Write the record. Raises `AuditUnavailable`: then the action must not happen."""
        ...


class JobFailed(Exception):
    """A job of another service failed. The text gives the reason."""


class RetentionJob(Protocol):
    """Applies the retention of another service to its files."""

    async def maintain(self, now: datetime) -> None:
        """Finish this process's own files. Called at each check of the scheduler. Raises `JobFailed`."""
        ...

    async def sweep(self, now: datetime) -> JobReport:
        """Remove data that is past its retention or deleted. Called while this process holds the lease.

        Raises `JobFailed`.
        """
        ...
