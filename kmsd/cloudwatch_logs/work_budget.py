"""Memory that requests and queries may hold, and work that they may spend on one event."""

from __future__ import annotations

from threading import Lock

MAX_QUERY_BYTES = 134_217_728
"""Of one query, at a time: rows, groups, values, events being read, results."""
MAX_REQUEST_BYTES = 134_217_728
"""Of one FilterLogEvents, at a time: events being read. Batches that overlap in time are open at once."""
MAX_PROCESS_BYTES = 268_435_456
"""Of all of them together, in one process."""
MAX_EVENT_WORK = 16_777_216
"""Characters and members that may be looked at for one event. The largest event has 1,048,576."""


class TooLarge(Exception):
    """More memory is needed than there may be; the message says for what."""


class Budget:
    """An account of bytes, out of a larger one if it has one. Any thread may use it."""

    def __init__(self, most: int, parent: Budget | None = None) -> None:
        self._limit = most
        self._parent = parent
        self._lock = Lock()
        self.used = 0

    def reserve(self, size: int) -> None:
        """Hold `size` bytes more. Raises `TooLarge`, and then holds what it held before."""
        with self._lock:
            if self.used + size > self._limit:
                raise TooLarge(f"more than {self._limit} bytes of memory")
            if self._parent is not None:
                self._parent.reserve(size)
            self.used += size

    def release(self, size: int) -> None:
        """Hold `size` bytes less."""
        with self._lock:
            self.used -= size
            if self._parent is not None:
                self._parent.release(size)

    def close(self) -> None:
        """Hold nothing any more."""
        self.release(self.used)


class TooMuchWork(Exception):
    """The work of one event is used up."""


class Work:
    """The work that is left for one event."""

    __slots__ = ("left",)

    def __init__(self, most: int = MAX_EVENT_WORK) -> None:
        self.left = most

    def spend(self, count: int) -> None:
        """Look at `count` characters or members. Raises `TooMuchWork`."""
        self.left -= count
        if self.left < 0:
            raise TooMuchWork


CONTAINER_WORK = 128
"""Characters that an object or list counts for when a JSON event is read."""
MEMBER_WORK = 256
"""Characters that a member of a JSON event counts for: looking at it takes as long."""
_MATCH_WORK = 1_024
_INSTRUCTIONS_AT_ONCE = 16


def reading_work(message: str) -> int:
    """Return the work of reading a JSON event."""
    return len(message) + CONTAINER_WORK * (message.count("[") + message.count("{"))


def matching_work(length: int, instructions: int) -> int:
    """Return the work of matching a regular expression: the text counts once for every 16 instructions."""
    return _MATCH_WORK + length * (1 + instructions // _INSTRUCTIONS_AT_ONCE)
