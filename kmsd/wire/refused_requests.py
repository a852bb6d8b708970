"""Audit records of refused, unauthenticated requests: one each, or in a flood one summary record a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec

from kmsd.audit import RefusalSampler, record_of_refusals
from kmsd.domain.arn import ArnScope
from kmsd.errors import ServiceError
from kmsd.operations.declaration import ClientInfo
from kmsd.ports import AuditSink, AuditUnavailable

FLUSH_SECONDS = 1.0
PER_SECOND = 20.0


class RefusedRequestLog(msgspec.Struct):
    """Audit log of the refusals of one process.

    A counted refusal is answered before its record is durable. It had no effect, and making a flood wait would fill
    the connections with it. A crash loses the counts of at most one second.
    """

    sink: AuditSink
    arns: ArnScope
    book: RefusalSampler = msgspec.field(default_factory=lambda: RefusalSampler(PER_SECOND))
    _timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[None] | None = None
    _failing: str = ""
    """Reason that the last counts were not written. While set, counted refusals raise `AuditUnavailable` too."""

    async def add(self, error: ServiceError, source: ClientInfo, now: datetime, record: Callable[[], bytes]) -> None:
        """Record or count one refusal; `record` builds its own record. Raises `AuditUnavailable`."""
        loop = asyncio.get_running_loop()
        if self.book.allow(loop.time()):
            await self.sink.append(record())
            return
        self.book.count(now, error.code, source)
        if self._timer is None and self._task is None:
            self._timer = loop.call_later(FLUSH_SECONDS, self._start_timer)
        if self._failing:
            raise AuditUnavailable(self._failing)

    def _start_timer(self) -> None:
        self._timer = None
        self._task = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        tally = self.book.drain()
        if tally is not None:
            try:
                await self.sink.append(record_of_refusals(arns=self.arns, tally=tally))
                self._failing = ""
            except AuditUnavailable as exc:
                self.book.restore(tally)
                self._failing = str(exc)
        self._task = None
        if self.book.tally is not None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._start_timer)

    async def close(self) -> None:
        """Write the remaining counts before the process ends."""
        if self._task is not None:
            await self._task
        if self.book.tally is not None:
            await self._flush()
        self._cancel()

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
