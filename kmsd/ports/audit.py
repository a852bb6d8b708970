"""The audit sink."""

from __future__ import annotations

from typing import Protocol


class AuditUnavailable(Exception):
    """The record could not be made durable; the call must fail."""


class AuditSink(Protocol):
    """Where audit records go."""

    async def append(self, record: bytes) -> None:
        """Add one record, a JSON object on one line. Durable on return. Raises `AuditUnavailable`.

        Whoever is cancelled while the record is written is told so at their next wait, if the record is durable. So
        what is recorded is committed, and not taken back.
        """
        ...

    async def check(self) -> None:
        """Prove that records can be written. Raises `AuditUnavailable`."""
        ...

    async def close(self) -> None:
        """Write what is pending and close."""
        ...
