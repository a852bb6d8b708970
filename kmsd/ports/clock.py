"""The time of day, as the core asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.trusted_time import ClockAssessment
    from kmsd.ports.store import Reader, Transaction


class Clock(Protocol):
    """The time of day."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class TrustedClock(Clock, Protocol):
    """A clock that judges the host's: whether what it says may end things."""

    @property
    def judgement(self) -> ClockAssessment | None:
        """Of the last look; None: there was none yet."""
        ...

    def trusted_now(self) -> datetime:
        """What is believed of the time of day, whatever becomes of the wall clock since the last look."""
        ...

    async def refresh(self, reader: Reader) -> ClockAssessment:
        """Judge the clock by what the store remembers. Raises `StoreUnavailable`."""
        ...

    async def persist(self, transaction: Transaction) -> ClockAssessment:
        """Judge the clock, and note the judgement for all processes. Raises `StoreUnavailable`."""
        ...
