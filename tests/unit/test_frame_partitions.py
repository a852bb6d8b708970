"""Partitions of log frames: a frame is dropped soon after it has expired, and there are never many partitions."""

from __future__ import annotations

import pytest

from kmsd.adapters.postgres.frame_partitions import DAY, KEPT, MOST_DAYS, day_of
from kmsd.cloudwatch_logs.groups import RETENTION_DAYS

BEGIN = 20_000 * DAY + 12_345


@pytest.mark.parametrize("days", RETENTION_DAYS)
def test_the_day_has_come_when_a_frame_has_expired(days: int) -> None:
    """Not before, and after at most a sixteenth of the retention, or a day."""
    latest = max(DAY, days * DAY * 2 // MOST_DAYS + DAY)
    for now in range(BEGIN, BEGIN + 200 * DAY, 7 * DAY // 3):
        expires_at = now + days * DAY
        assert 0 <= day_of(expires_at, now) * DAY - expires_at < latest


def test_there_are_few() -> None:
    """With all kinds of retention at once, after ten years: a search locks each of them, and its indexes."""
    now = BEGIN + 3653 * DAY
    found = {day_of(at + days * DAY, at) for days in RETENTION_DAYS for at in range(BEGIN, now, DAY)}
    assert sum(day * DAY > now for day in found) < 200


def test_what_does_not_expire_has_one() -> None:
    """Whenever it comes."""
    assert day_of(0, BEGIN) == KEPT
