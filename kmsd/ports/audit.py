"""The audit sink."""

from __future__ import annotations

from typing import Protocol


class AuditUnavailable(Exception):
    """The record could not be made durable. The call must fail."""


class AuditSink(Protocol):
    """Destination of audit records."""

    async def append(self, record: bytes) -> None:
        """Add one record, a JSON object on one line. Durable on return. Raises `AuditUnavailable`.

        If the task is cancelled during the write and the record becomes durable, this returns normally. The
        cancellation takes effect at the task's next await. So what is recorded is also committed.
        """
        ...

    async def check(self) -> None:
        """Verify that records can be written. Raises `AuditUnavailable`."""
        ...

    async def close(self) -> None:
        """Write pending records and close."""
        ...
