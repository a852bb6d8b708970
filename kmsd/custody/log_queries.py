"""Carrying out a query: in the background of the process that was asked, in turns with everything else.

A query that has failed, was stopped, or lost its process leaves no result. Why it failed stands in the audit
trail where a key was refused, and is told as the query's status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from kmsd.custody import log_results
from kmsd.custody.log_reading import Reading
from kmsd.custody.log_room import LogRoom
from kmsd.domain.arn import Place
from kmsd.domain.log_group import LogGroup
from kmsd.domain.log_query import CANCELLED, COMPLETE, FAILED, RUNNING, TIMEOUT, StoredQuery
from kmsd.domain.log_query_plan import Plan, Run
from kmsd.domain.log_query_rows import Row
from kmsd.domain.log_query_stats import TooLarge
from kmsd.domain.log_shapes import QueryStatistics
from kmsd.errors import ServiceError
from kmsd.ports import AuditUnavailable, Store, StoreError, TokenError
from kmsd.ports_logs import SegmentsError, Wanted

QUERY_SECONDS = 300
"""A query that takes longer ends as `Timeout`."""
SLICE = 500
"""Events that are looked at before others have their turn."""
LOOK_EVERY = 20
"""Slices between two looks at whether the query was stopped."""


class Task(msgspec.Struct, frozen=True):
    """A query and what it is asked of."""

    query: StoredQuery
    plan: Plan
    groups: Sequence[LogGroup]
    wanted: Wanted
    most: int


class _Stopped(Exception):
    """StopQuery was called."""


class Runner(msgspec.Struct):
    """Carries out queries. One for each process."""

    room: LogRoom
    store: Store
    place: Place
    now: Callable[[], datetime]

    async def run(self, task: Task) -> None:
        """Carry out one query and write down how it ended."""
        run = task.plan.run(task.most, several=len(task.groups) > 1)
        scanned = [0, 0]
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                await self._look(task, run, scanned)
                run.end()
            ended = COMPLETE
        except TimeoutError:
            ended = TIMEOUT
        except _Stopped:
            ended = CANCELLED
        except (ServiceError, StoreError, TokenError, SegmentsError, AuditUnavailable, TooLarge):
            ended = FAILED
        try:
            await self._end(task, run, ended, scanned)
        except (ServiceError, StoreError, TokenError, SegmentsError, AuditUnavailable):
            # The results cannot be sealed or stored: then there are none.
            await self._end(task, run, FAILED, scanned)

    async def _look(self, task: Task, run: Run, scanned: list[int]) -> None:
        """Show the query all events, the newest first."""
        slices = 0
        for group in task.groups:
            reading = Reading(self.room, self.store, group, self.now())
            log = f"{group.account}:{group.name}"
            start = max(task.wanted.start, group.oldest(self.now()))
            async for events in reading.events(replace(task.wanted, start=start)):
                for begin in range(0, len(events), SLICE):
                    for event in events[begin : begin + SLICE]:
                        run.feed(Row(event, reading.names[event.stream_id], log))
                        scanned[0] += 1
                        if run.done:
                            break
                    if run.done:
                        break
                    slices += 1
                    if slices % LOOK_EVERY == 0:
                        await self._check(task)
                    await asyncio.sleep(0)
                if run.done:
                    break
            scanned[1] += reading.scanned
            if run.done:
                return

    async def _check(self, task: Task) -> None:
        known = await (await self.store.read()).log_query(task.query.query_id)
        if known is None or known.status != RUNNING:
            raise _Stopped

    async def _end(self, task: Task, run: Run, status: str, scanned: list[int]) -> None:
        query_id, now = task.query.query_id, self.now()
        kms_key = None
        if status == COMPLETE:
            books = await self.store.read()
            subject = log_results.subject_of(self.place, await books.results_key(task.query.account))
            content = await log_results.seal_rows(self.room, books, subject, query_id, run.results, now=now)
            await self.room.segments.put_result(query_id, content)
            kms_key = subject.kms_key
        statistics = QueryStatistics(
            records_matched=float(run.matched),
            records_scanned=float(scanned[0]),
            bytes_scanned=float(scanned[1]),
            log_groups_scanned=float(len(task.groups)),
        )
        ended = replace(task.query, status=status, ended_at=now, statistics=statistics, kms_key=kms_key)
        async with self.store.write() as transaction:
            was_running = await transaction.end_log_query(ended)
        if not was_running:
            await self.room.segments.delete_result(query_id)
