"""Pages of events: how many fit."""

from __future__ import annotations

import re
from bisect import bisect_right

import msgspec

from kmsd.cloudwatch_logs.events import POSITION_DIGITS, LogEvent, ends_of

MAX_EVENTS = 10_000
MAX_BYTES = 1_048_576
"""GetLogEvents: "as many log events as can fit in a response size of 1 MB (up to 10,000 log events)"."""

PAGE_TOKEN = re.compile(rf"(?P<way>[fb])/(?P<position>[0-9]{{{POSITION_DIGITS}}})", re.ASCII)
"""A token of GetLogEvents or FilterLogEvents: forward or backward, from a position on."""


class EventPage(msgspec.Struct):
    """A page that is being filled."""

    budget: int
    events: list[LogEvent] = []
    _left: int = MAX_BYTES

    def add(self, run: list[LogEvent]) -> bool:
        """Add what fits; whether all of `run` did. One event always fits."""
        ends = ends_of([event.message for event in run])
        count = min(bisect_right(ends, self._left), self.budget - len(self.events))
        if not count and not self.events and run:
            count = 1
        if count:
            self.events += run[:count]
            self._left -= ends[count - 1]
        return count == len(run)
