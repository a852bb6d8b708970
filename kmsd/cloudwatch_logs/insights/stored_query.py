"""Query record: text, caller, and how the query ended."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kmsd.cloudwatch_logs.shapes import QueryStatistics

RUNNING = "Running"
COMPLETE = "Complete"
FAILED = "Failed"
CANCELLED = "Cancelled"
TIMEOUT = "Timeout"


class MalformedQuery(ValueError):
    """The text is not a supported query; the message says why."""


class StoredQuery(msgspec.Struct, frozen=True):
    """Query as the store holds it."""

    query_id: str
    account: str
    group_name: str
    """First group that the query reads."""
    principal: str
    """ARN of the caller who started it."""
    created_at: datetime
    deadline_at: datetime
    """Time at which its runner gives up. A query that is still running later has lost its process."""
    sealed_text: bytes
    status: str
    statistics: QueryStatistics
    ended_at: datetime | None = None
    kms_key: str | None = None
    """ARN of the key that encrypts its results; None: the daemon's own key."""

    def status_at(self, now: datetime) -> str:
        """Return the status shown to clients."""
        return TIMEOUT if self.status == RUNNING and now >= self.deadline_at else self.status
