"""Limits on the memory of requests and queries, and on the work spent on one event."""

from __future__ import annotations

from threading import Lock

MAX_QUERY_BYTES = 134_217_728
"""Limit on the bytes that one query holds at a time: rows, groups, values, events being read, results."""
MAX_REQUEST_BYTES = 134_217_728
"""Limit on the bytes that one FilterLogEvents holds at a time. Batches that overlap in time are open at once."""
MAX_PROCESS_BYTES = 268_435_456
"""Limit on the bytes of all queries and searches in one process."""
MAX_EVENT_WORK = 16_777_216
"""Limit on the characters and members examined for one event. The largest event has 1,048,576."""


class TooLarge(Exception):
    """The memory budget is exhausted; the message has the limit."""


class Budget:
    """Byte budget, optionally part of a parent budget. Thread-safe."""

    def __init__(self, most: int, parent: Budget | None = None) -> None:
        self._limit = most
        self._parent = parent
        self._lock = Lock()
        self.used = 0

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes. Raises `TooLarge`, and then reserves nothing."""
        with self._lock:
            if self.used + size > self._limit:
                raise TooLarge(f"more than {self._limit} bytes of memory")
            if self._parent is not None:
                self._parent.reserve(size)
            self.used += size

    def release(self, size: int) -> None:
        """Release `size` bytes."""
        with self._lock:
            self.used -= size
            if self._parent is not None:
                self._parent.release(size)

    def close(self) -> None:
        """Release everything."""
        self.release(self.used)


class TooMuchWork(Exception):
    """The work budget of one event is used up."""


class Work:
    """Work budget of one event."""

    __slots__ = ("left",)

    def __init__(self, most: int = MAX_EVENT_WORK) -> None:
        self.left = most

    def spend(self, count: int) -> None:
        """Count `count` characters or members as examined. Raises `TooMuchWork`."""
        self.left -= count
        if self.left < 0:
            raise TooMuchWork


CONTAINER_WORK = 128
"""Cost in characters of an object or list when a JSON event is parsed."""
MEMBER_WORK = 256
"""Cost in characters of examining a member of a JSON event."""
_MATCH_WORK = 1_024
_INSTRUCTIONS_AT_ONCE = 16


def reading_work(message: str) -> int:
    """Return the work of parsing a JSON event."""
    return len(message) + CONTAINER_WORK * (message.count("[") + message.count("{"))


def matching_work(length: int, instructions: int) -> int:
    """Return the work of matching a regular expression: the text counts once per 16 instructions."""
    return _MATCH_WORK + length * (1 + instructions // _INSTRUCTIONS_AT_ONCE)
