"""Execution of queries, in the background of the process that received StartQuery, interleaved with other work.

A query that failed, was stopped or lost its process leaves no result. The query's status shows the failure. If a key
was refused, the audit trail says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby

import msgspec
from msgspec.structs import replace

from kmsd.cloudwatch_logs.evaluation import SLICE_SECONDS, is_long
from kmsd.cloudwatch_logs.event_reader import EventReader
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.insights import results
from kmsd.cloudwatch_logs.insights.planner import Plan, Run
from kmsd.cloudwatch_logs.insights.results import Chunk
from kmsd.cloudwatch_logs.insights.rows import Record
from kmsd.cloudwatch_logs.insights.stored_query import CANCELLED, COMPLETE, FAILED, RUNNING, TIMEOUT, StoredQuery
from kmsd.cloudwatch_logs.ports import FrameQuery, LogStore, SegmentsError
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.cloudwatch_logs.shapes import QueryStatistics
from kmsd.cloudwatch_logs.work_budget import MAX_QUERY_BYTES, Budget, TooLarge
from kmsd.domain.arn import ArnScope
from kmsd.errors import ServiceError
from kmsd.ports import AuditUnavailable, StoreError, TokenError

QUERY_SECONDS = 300
"""Limit on the seconds of a query; a longer one ends as `Timeout`."""
CANCEL_CHECK_INTERVAL = 100
"""Number of slices between two checks for StopQuery."""
SLOW_SLICES = 10
"""Overrun factor of a slice from which the rest of the query runs in a thread: it was too long for the event loop."""
ROWS_A_CHUNK = 500
BYTES_A_CHUNK = 1_048_576
_EXPECTED = (ServiceError, StoreError, TokenError, SegmentsError, AuditUnavailable, TooLarge)


class QueryTask(msgspec.Struct, frozen=True):
    """Query with the groups and frames that it reads."""

    query: StoredQuery
    plan: Plan
    groups: Sequence[LogGroup]
    wanted: FrameQuery
    most: int


class _Cancelled(Exception):
    """StopQuery was called."""


class _Progress(msgspec.Struct):
    """Progress of one run of a query."""

    run: Run
    budget: Budget
    in_thread: bool
    """True if all slices run in a thread; otherwise only the long ones do."""
    chunks: list[Chunk] = []
    records: int = 0
    scanned: int = 0
    slices: int = 0


class QueryRunner(msgspec.Struct):
    """Runner of queries. One for each process."""

    logs: LogsService
    store: LogStore
    arns: ArnScope
    now: Callable[[], datetime]

    async def run(self, task: QueryTask) -> None:
        """Run one query and record how it ended, whatever was raised."""
        budget = Budget(MAX_QUERY_BYTES, self.logs.memory)
        run = task.plan.run(task.most, multiple_groups=len(task.groups) > 1, budget=budget)
        progress = _Progress(run, budget, in_thread=task.plan.grows and task.plan.instructions > 0)
        try:
            await self._complete(task, progress, await self._carry_out(task, progress))
        except asyncio.CancelledError:
            await self._complete(task, progress, FAILED)
            raise
        except Exception as exc:  # noqa: BLE001 (the results cannot be encrypted or stored, so the query has none)
            _report(exc)
            await self._complete(task, progress, FAILED)
        finally:
            budget.close()

    async def _carry_out(self, task: QueryTask, progress: _Progress) -> str:
        """Run the query and return its final status."""
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                await self._read_events(task, progress)
                await self._in_slices(task, progress, progress.run.ending())
        except TimeoutError:
            return TIMEOUT
        except _Cancelled:
            return CANCELLED
        except Exception as exc:  # noqa: BLE001 (an unended query would be shown, and counted, as running)
            _report(exc)
            return FAILED
        return COMPLETE

    async def _read_events(self, task: QueryTask, progress: _Progress) -> None:
        """Feed all events to the query, newest first."""
        for group in task.groups:
            reading = EventReader(self.logs, self.store, group, self.now(), budget=progress.budget)
            log = f"{group.account}:{group.name}"
            start = max(task.wanted.start, group.oldest(self.now()))
            async for events in reading.events(replace(task.wanted, start=start)):
                for long, some in groupby(events, lambda event: is_long(len(event.message), task.plan.instructions)):
                    rows = (Record(event, reading.names[event.stream_id], log) for event in some)
                    await self._in_slices(task, progress, _fed(progress, rows), long=long)
                    if progress.run.done:
                        break
                if progress.run.done:
                    break
            progress.scanned += reading.scanned
            if progress.run.done:
                return

    async def _in_slices(
        self, task: QueryTask, progress: _Progress, steps: Iterator[None], *, long: bool = False
    ) -> None:
        """Run steps in slices, yielding to other work, and encode the resulting rows."""
        more = True
        while more:
            act = partial(_slice, progress, steps)
            more = await self.logs.evaluation.slice(act, in_thread=long or progress.in_thread)
            _pack(progress, at_least=ROWS_A_CHUNK)
            progress.slices += 1
            if progress.slices % CANCEL_CHECK_INTERVAL == 0:
                await self._check_cancelled(task)
            await asyncio.sleep(0)

    async def _check_cancelled(self, task: QueryTask) -> None:
        known = await (await self.store.read()).log_query(task.query.query_id)
        if known is None or known.status != RUNNING:
            raise _Cancelled

    async def _complete(self, task: QueryTask, progress: _Progress, status: str) -> None:
        query_id, now = task.query.query_id, self.now()
        kms_key = None
        if status == COMPLETE:
            _pack(progress, at_least=1)
            reader = await self.store.read()
            subject = results.subject_of(self.arns, await reader.results_key(task.query.account))
            content = await results.seal_rows(self.logs, reader, subject, query_id, progress.chunks, now=now)
            await self.logs.segments.put_result(query_id, content)
            kms_key = subject.kms_key
        statistics = QueryStatistics(
            records_matched=float(progress.run.matched),
            records_scanned=float(progress.records),
            bytes_scanned=float(progress.scanned),
            log_groups_scanned=float(len(task.groups)),
        )
        ended = replace(task.query, status=status, ended_at=now, statistics=statistics, kms_key=kms_key)
        async with self.store.write() as transaction:
            was_running = await transaction.complete_log_query(ended)
        if not was_running:
            await self.logs.segments.delete_result(query_id)


def _report(exc: Exception) -> None:
    """Pass an unexpected error to the event loop's exception handler, which logs it."""
    if not isinstance(exc, _EXPECTED):
        context = {"message": "a query failed unexpectedly", "exception": exc}
        asyncio.get_running_loop().call_exception_handler(context)


def _fed(progress: _Progress, rows: Iterator[Record]) -> Iterator[None]:
    """Feed rows to the query, one per step, until it has enough."""
    for row in rows:
        progress.records += 1
        progress.run.feed(row)
        if progress.run.done:
            return
        yield


def _slice(progress: _Progress, steps: Iterator[None]) -> bool:
    """Run steps for the length of a slice; False if there are no more."""
    began = time.perf_counter()
    until = began + SLICE_SECONDS
    more = any(time.perf_counter() >= until for _ in steps)
    progress.in_thread |= time.perf_counter() - began > SLOW_SLICES * SLICE_SECONDS
    return more


def _pack(progress: _Progress, *, at_least: int) -> None:
    """Encode the result rows if there are at least `at_least` of them, or if they are large."""
    run = progress.run
    if len(run.results) < at_least and run.held < BYTES_A_CHUNK:
        return
    chunk = results.packed(run.drain())
    progress.budget.reserve(results.COPIES * len(chunk.rows))
    progress.chunks.append(chunk)
