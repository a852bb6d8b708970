"""Watches the wall clock against the host's uptime, and says whether what time brings about may be carried out."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from kmsd.domain.trusted_time import ClockAssessment, Uptime, assess
from kmsd.ports import Clock, Reader, Store, Transaction

REMIND_SECONDS = 3600.0
"""How often the log says again what it has said already."""
_EPOCH = datetime.fromtimestamp(0, UTC)

log = structlog.get_logger()


class WatchedClock(msgspec.Struct):
    """The clock of one process, which does not go back (`kmsd.ports.Clock`), and the judgement on the host's."""

    wall: Clock
    boot: str
    """Which start of the host this is."""
    uptime: Callable[[], float]
    """Seconds since then; nobody can set it."""
    judgement: ClockAssessment | None = None
    """Of the last look; None: there was none yet."""
    _boot_at: float = -math.inf
    """Unix time at which the uptime was 0, by the trusted instant of the last look."""
    _latest: datetime = _EPOCH
    """What `now` said last, or the trusted instant of the last look if that was later."""
    _last_logged: tuple[bool, bool] = (False, False)
    _logged_at: float = -math.inf

    @classmethod
    async def start(cls, store: Store, wall: Clock, boot: str, uptime: Callable[[], float]) -> WatchedClock:
        """A watch that knows what the books remember. Raises `StoreUnavailable`."""
        watch = cls(wall, boot, uptime)
        await watch.refresh(await store.read())
        return watch

    def now(self) -> datetime:
        """The host's time of day, or the trusted instant if that is later: a clock set back revives nothing."""
        now = self.wall.now()
        if now < self._latest:
            # Only a clock that goes back is worth more than a comparison: each call asks.
            now = max(now, self.trusted_now())
        self._latest = now
        return now

    def trusted_now(self) -> datetime:
        """What is believed of the time of day, whatever becomes of the wall clock since the last look."""
        return _EPOCH + timedelta(seconds=self._boot_at + self.uptime())

    async def refresh(self, reader: Reader) -> ClockAssessment:
        """Judge the clock anew by what the books remember. Raises `StoreUnavailable`."""
        uptime = Uptime(self.boot, self.uptime())
        judgement = assess(await reader.clock_reading(), self.wall.now(), uptime)
        self.judgement = judgement
        self._boot_at = judgement.reading.trusted_at.timestamp() - uptime.seconds
        self._latest = max(self._latest, judgement.reading.trusted_at)
        self._log(judgement, uptime.seconds)
        return judgement

    async def persist(self, transaction: Transaction) -> ClockAssessment:
        """Judge, and have the books remember. Raises `StoreUnavailable`."""
        judgement = await self.refresh(transaction)
        await transaction.put_clock_reading(judgement.reading)
        return judgement

    def _log(self, judgement: ClockAssessment, clock: float) -> None:
        found = (judgement.suspended, judgement.behind)
        if found == self._last_logged and (not any(found) or clock - self._logged_at < REMIND_SECONDS):
            return
        self._last_logged, self._logged_at = found, clock
        seconds = round(judgement.skew.total_seconds())
        if judgement.suspended:
            log.error(
                "destructive jobs are held",
                clock_ahead_seconds=seconds,
                remedy="set the clock right, or tell that it is: kmsd jobs confirm-clock",
            )
        elif judgement.behind:
            log.error(
                "the clock was set back",
                clock_ahead_seconds=seconds,
                consequence="time goes on from the latest trusted instant",
                remedy="set the clock right, or tell that it is: kmsd jobs confirm-clock",
            )
        else:
            log.info("the clock is trusted again")
