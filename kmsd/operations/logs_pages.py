"""Pages of events: how many fit."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmsd.domain.log_event import Event, size_of

MOST_EVENTS = 10_000
MOST_BYTES = 1_048_576
"""GetLogEvents: "as many log events as can fit in a response size of 1 MB (up to 10,000 log events)"."""


@dataclass(slots=True)
class Room:
    """A page that is being filled."""

    most: int
    events: list[Event] = field(default_factory=list)
    _left: int = MOST_BYTES

    def take(self, run: list[Event]) -> bool:
        """Add what fits; whether all of `run` did. One event always fits."""
        whole = size_of([event.message for event in run])
        if whole <= self._left and len(self.events) + len(run) <= self.most:
            self.events += run
            self._left -= whole
            return True
        for event in run:
            size = size_of((event.message,))
            if len(self.events) >= self.most or (size > self._left and self.events):
                return False
            self.events.append(event)
            self._left -= size
        return True
