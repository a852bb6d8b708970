"""Names that backups get in a folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kmsd.cli.commands.backup import name_of_backup


def test_backups_of_one_second_have_names_that_sort_by_time() -> None:
    """Two commands in a row make two files, and the last by name is the last by time."""
    first = datetime(2026, 3, 1, 23, 59, 59, 999_000, tzinfo=UTC) - timedelta(milliseconds=500)
    names = [name_of_backup(first + timedelta(milliseconds=number)) for number in range(0, 1500, 250)]
    assert names[0] == "kmsd-20260301T235959.499Z.backup"
    assert names == sorted(set(names))
