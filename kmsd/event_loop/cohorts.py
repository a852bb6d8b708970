"""Cohort scheduling: concurrent calls go through each stage together.

More than half of a call's cost is loading the instructions and tables of each stage into the processor's inner caches.
Another call would find those of the last stage there. So if several calls can run, each pauses between authentication,
admission, its handler and its record. One stage then runs for all of them before the next stage begins: an Encrypt
among 16 takes 45 us of a process instead of 60 (docs/decisions/0012-hot-path.md).
"""

from __future__ import annotations

import types
from collections.abc import Generator

MIN_COHORT = 3
"""Calls in flight below which a pause costs more than it saves."""


class CohortScheduler:
    """Cohort of the calls of one event loop."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls received, without those that wait for their record. The transport counts them when it reads them from
        the socket, before the first of them runs, so that each sees the others. From `MIN_COHORT` on, they `pause`."""


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Let the other calls reach the same stage."""
    yield
