"""Times that are set at the first start of a release, after an upgrade or on a new database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

MAX_SESSION = timedelta(hours=36)
"""Longest life of a session (GetSessionToken, DurationSeconds: at most 129,600)."""


def first_start(now: datetime) -> Sequence[tuple[str, int]]:
    """Return statements, each with its value. They change nothing at later starts.

    Until when session tokens without MAC are accepted: the longest life of a session. From when on uses of keys are
    recorded: now.
    """
    until, since = int((now + MAX_SESSION).timestamp()), int(now.timestamp())
    return (
        ("UPDATE session_mac SET older_until = ? WHERE older_until IS NULL", until * 1_000_000),
        ("UPDATE key_usage_tracking SET since = ? WHERE since IS NULL", since * 1_000_000),
    )
