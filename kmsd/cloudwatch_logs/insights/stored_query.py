"""A query as a noun: what was asked, by whom, and how it ended."""

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
    """The text is no query, or one that is not supported; the message says why."""


class StoredQuery(msgspec.Struct, frozen=True):
    """A query as the store holds it."""

    query_id: str
    account: str
    group_name: str
    """The first group it was asked of."""
    principal: str
    """ARN of who asked."""
    created_at: datetime
    deadline_at: datetime
    """When whoever runs it gives up; one that is still running then has lost its process."""
    sealed_text: bytes
    status: str
    statistics: QueryStatistics
    ended_at: datetime | None = None
    kms_key: str | None = None
    """ARN of the key that its results are sealed under; None: the daemon's own."""

    def status_at(self, now: datetime) -> str:
        """What a client is told."""
        return TIMEOUT if self.status == RUNNING and now >= self.deadline_at else self.status
