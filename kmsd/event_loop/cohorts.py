"""Calls that are under way at the same time go through their stages together.

What a call costs is, for the better half, fetching the instructions and tables of each step into the processor's inner
caches, only for the next call to find those of the last step there. Where several calls can run, each of them pauses
between authentication, admission, its handler and its record, so that one stage runs for all of them before the next
begins: an Encrypt among 16 then takes 45 us of a process instead of 60 (docs/decisions/0012-hot-path.md).
"""

from __future__ import annotations

import types
from collections.abc import Generator

MIN_COHORT = 3
"""Calls that can run; with fewer, a pause costs more than it saves."""


class CohortScheduler:
    """The calls of one event loop."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls that have come in, without those that wait for their record. The transport counts them, as it reads
        them off the wire: before the first of them runs, so that each knows of the others."""

    @types.coroutine
    def yield_to_cohort(self) -> Generator[None, None, None]:
        """Let the others come as far."""
        if self.in_flight >= MIN_COHORT:
            yield
