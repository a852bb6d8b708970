"""Pages of events, limited in number and bytes."""

from __future__ import annotations

import re
from bisect import bisect_right

import msgspec

from kmsd.cloudwatch_logs.events import POSITION_DIGITS, LogEvent, ends_of

MAX_EVENTS = 10_000
MAX_BYTES = 1_048_576
"""GetLogEvents: "as many log events as can fit in a response size of 1 MB (up to 10,000 log events)"."""

PAGE_TOKEN = re.compile(rf"(?P<way>[fb])/(?P<position>[0-9]{{{POSITION_DIGITS}}})", re.ASCII)
"""Token of GetLogEvents or FilterLogEvents: direction (forward or backward) and start position."""


class EventPage(msgspec.Struct):
    """Page that is being filled."""

    budget: int
    events: list[LogEvent] = []
    _left: int = MAX_BYTES

    def add(self, run: list[LogEvent]) -> bool:
        """Add the events that fit; True if all of `run` did. The first event of a page always fits."""
        ends = ends_of([event.message for event in run])
        count = min(bisect_right(ends, self._left), self.budget - len(self.events))
        if not count and not self.events and run:
            count = 1
        if count:
            self.events += run[:count]
            self._left -= ends[count - 1]
        return count == len(run)
