"""Watch the wall clock against the host's uptime, and decide whether jobs that depend on time may run."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from kmsd.domain.trusted_time import ClockAssessment, Uptime, assess
from kmsd.ports import Clock, Reader, Store, Transaction

REMIND_SECONDS = 3600.0
"""Seconds after which an unchanged problem is logged again."""
KEPT_SECONDS = 30.0
"""Uptime in seconds after which a stored reading is old: two intervals of the process that stores it."""
_EPOCH = datetime.fromtimestamp(0, UTC)

log = structlog.get_logger()


class WatchedClock(msgspec.Struct):
    """Clock of one process, which never goes back (`kmsd.ports.Clock`), and the assessment of the host's clock."""

    wall: Clock
    boot: str
    """Identifier of the host's current boot."""
    uptime: Callable[[], float]
    """Returns the seconds since that boot. No process can set this clock."""
    judgement: ClockAssessment | None = None
    """Last assessment; None before the first."""
    _boot_at: float = -math.inf
    """Unix time at which the uptime was 0, by the trusted time of the last assessment."""
    _latest: datetime = _EPOCH
    """Last result of `now`, or the trusted time of the last assessment if that was later."""
    _last_logged: tuple[bool, bool] = (False, False)
    _logged_at: float = -math.inf

    @classmethod
    async def start(cls, store: Store, wall: Clock, boot: str, uptime: Callable[[], float]) -> WatchedClock:
        """Create a clock from the reading in the store. Raises `StoreUnavailable`."""
        watch = cls(wall, boot, uptime)
        await watch.refresh(await store.read())
        return watch

    def now(self) -> datetime:
        """Return the host's time, or the trusted time if that is later: a clock set back must not revive anything."""
        now = self.wall.now()
        if now < self._latest:
            # Each request calls this: compute the trusted time only if the clock went back.
            now = max(now, self.trusted_now())
        self._latest = now
        return now

    def trusted_now(self) -> datetime:
        """Return the trusted time: the last assessment plus elapsed uptime, whatever the wall clock shows."""
        return _EPOCH + timedelta(seconds=self._boot_at + self.uptime())

    async def refresh(self, reader: Reader) -> ClockAssessment:
        """Assess the clock again from the reading in the store. Raises `StoreUnavailable`."""
        uptime = Uptime(self.boot, self.uptime())
        judgement = assess(await reader.clock_reading(), self.wall.now(), uptime)
        self.judgement = judgement
        self._boot_at = judgement.reading.trusted_at.timestamp() - uptime.seconds
        self._latest = max(self._latest, judgement.reading.trusted_at)
        self._log(judgement, uptime.seconds)
        return judgement

    async def persist(self, transaction: Transaction) -> ClockAssessment:
        """Assess the clock, and store the reading. Raises `StoreUnavailable`."""
        judgement = await self.refresh(transaction)
        await transaction.put_clock_reading(judgement.reading)
        return judgement

    async def keep(self, transaction: Transaction) -> ClockAssessment:
        """Assess the clock, and store the reading if the stored one is old. Raises `StoreUnavailable`."""
        before, uptime = await transaction.clock_reading(), self.uptime()
        if before is None or not 0 <= uptime - before.uptime.seconds < KEPT_SECONDS:
            return await self.persist(transaction)
        return await self.refresh(transaction)

    def _log(self, judgement: ClockAssessment, clock: float) -> None:
        found = (judgement.suspended, judgement.behind)
        if found == self._last_logged and (not any(found) or clock - self._logged_at < REMIND_SECONDS):
            return
        self._last_logged, self._logged_at = found, clock
        seconds = round(judgement.skew.total_seconds())
        if judgement.suspended:
            log.error(
                "destructive_jobs_suspended",
                clock_ahead_seconds=seconds,
                remedy="set the clock, or confirm that it is right: kmsd jobs confirm-clock",
            )
        elif judgement.behind:
            log.error(
                "clock_set_back",
                clock_ahead_seconds=seconds,
                consequence="time continues from the latest trusted instant",
                remedy="set the clock, or confirm that it is right: kmsd jobs confirm-clock",
            )
        else:
            log.info("clock_trusted_again")
