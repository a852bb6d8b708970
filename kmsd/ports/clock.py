"""Clocks of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.trusted_time import ClockAssessment
    from kmsd.ports.store import Reader, Transaction


class Clock(Protocol):
    """Source of the current time."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


class TrustedClock(Clock, Protocol):
    """A clock that checks the host's wall clock before expiry and destruction rely on it (`domain.trusted_time`)."""

    @property
    def judgement(self) -> ClockAssessment | None:
        """Result of the last check; None before the first one."""
        ...

    def trusted_now(self) -> datetime:
        """Return the trusted time. Changes of the wall clock since the last check do not affect it."""
        ...

    async def refresh(self, reader: Reader) -> ClockAssessment:
        """Compare the clock with the sample in the store. Raises `StoreUnavailable`."""
        ...

    async def keep(self, transaction: Transaction) -> ClockAssessment:
        """Do the same as `persist` if no process of this node has done so for a while, otherwise as `refresh`."""
        ...

    async def persist(self, transaction: Transaction) -> ClockAssessment:
        """Compare the clock with the sample, and store the new sample for all processes. Raises `StoreUnavailable`."""
        ...
