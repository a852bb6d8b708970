"""How many events a page takes, against taking them one by one."""

from __future__ import annotations

import random

import pytest

from kmsd.cloudwatch_logs import event_page
from kmsd.cloudwatch_logs.event_page import EventPage
from kmsd.cloudwatch_logs.events import OVERHEAD, LogEvent


def taken_one_by_one(runs: list[list[LogEvent]], most: int, most_bytes: int) -> list[LogEvent]:
    """What "as many log events as can fit" says; one always does."""
    page: list[LogEvent] = []
    for event in (event for run in runs for event in run):
        size = sum(OVERHEAD + len(one.message.encode()) for one in [*page, event])
        if page and (len(page) >= most or size > most_bytes):
            break
        page.append(event)
    return page


@pytest.mark.parametrize("seed", range(40))
def test_a_page_takes_what_fits(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Of runs of any length, in any alphabet; and says whether all of a run was taken."""
    chance = random.Random(seed)  # noqa: S311 (a test's)
    monkeypatch.setattr(event_page, "MAX_BYTES", 2_000)
    runs = [
        [
            LogEvent(
                number, number, chance.choice("aä€😀") * chance.randint(1, 2_200 if seed % 4 == 0 else 60), 0, b"s"
            )
            for number in range(chance.randint(0, 30))
        ]
        for _ in range(5)
    ]
    most, room = chance.randint(1, 60), EventPage(0, _left=2_000)
    room.budget = most
    for index, run in enumerate(runs):
        before = len(room.events)
        whole = room.add(run)
        assert whole == (len(room.events) - before == len(run))
        if not whole:
            break
        assert room.events == [event for run in runs[: index + 1] for event in run]
    assert room.events == taken_one_by_one(runs, most, 2_000)
