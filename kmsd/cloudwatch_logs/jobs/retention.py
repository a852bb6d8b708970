"""Removal of expired and deleted events, as promised by PutRetentionPolicy, DeleteLogGroup and DeleteLogStream."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from kmsd.cloudwatch_logs.groups import millis
from kmsd.cloudwatch_logs.ports import LogStore, Segments, SegmentsError
from kmsd.ports import StoreError
from kmsd.ports.jobs import JobFailed, JobReport

LATE_WRITERS = timedelta(hours=1)
"""Grace period after a group's deletion, within which a batch in progress may still recreate the group's folder."""
RESULTS_KEPT = timedelta(days=7)
"""CloudWatch Logs quotas: "Query results availability: 7 days"."""
BATCH = 1_000


class RetentionReport(JobReport):
    """Report of one run."""

    removed: list[str] = []
    """Groups that lost segments, by id."""
    rewritten: list[str] = []
    """Groups whose segments were rewritten without expired and deleted events, by id."""
    queries: list[str] = []
    """Queries that were deleted with their results."""


class LogRetention(msgspec.Struct):
    """Implements `kmsd.ports.jobs.RetentionJob`."""

    store: LogStore
    segments: Segments

    async def maintain(self, now: datetime) -> None:
        """Finish this process's own segments. Raises `JobFailed`."""
        try:
            await self.segments.maintain(millis(now))
        except SegmentsError as exc:
            raise JobFailed(str(exc)) from exc

    async def sweep(self, now: datetime) -> RetentionReport:
        """Call `run_once`. Raises `JobFailed`, `StoreError`."""
        try:
            return await run_once(self.store, self.segments, now)
        except SegmentsError as exc:
            raise JobFailed(str(exc)) from exc


async def run_once(store: LogStore, segments: Segments, now: datetime) -> RetentionReport:
    """Remove from disk what clients can no longer read. Idempotent; one bad group does not stop the sweep."""
    report = RetentionReport()
    try:
        report.removed += [group_id.hex() for group_id in await segments.drop_expired(millis(now))]
    except SegmentsError as exc:
        report.failed.append(f"expired segments: {exc}")
    reader = await store.read()
    dead_streams = await reader.dead_log_streams()
    oldest = {group.group_id: group.oldest(now) for group in await reader.log_groups_kept_for_days()}
    for group_id in oldest.keys() | dead_streams.keys():
        try:
            before, dead = oldest.get(group_id, 0), dead_streams.get(group_id, frozenset())
            await _apply_retention(store, segments, group_id, report, before=before, dead=dead)
        except (StoreError, SegmentsError) as exc:
            report.failed.append(f"{group_id.hex()}: {exc}")
    await _remove_groups(store, segments, now, report)
    await _delete_queries(store, segments, now, report)
    return report


async def _apply_retention(
    store: LogStore,
    segments: Segments,
    group_id: bytes,
    report: RetentionReport,
    *,
    before: int,
    dead: frozenset[bytes],
) -> None:
    dropped = await segments.apply_retention(group_id, before=before, dead_streams=dead)
    if dropped.segments:
        report.removed.append(group_id.hex())
    if dropped.rewritten:
        report.rewritten.append(group_id.hex())
    gone = dead - (await segments.summaries(group_id)).keys()
    if gone:
        async with store.write() as transaction:
            await transaction.purge_dead_log_streams(group_id, tuple(gone))


async def _remove_groups(store: LogStore, segments: Segments, now: datetime, report: RetentionReport) -> None:
    reader = await store.read()
    settled = set(await reader.dead_log_groups(now - LATE_WRITERS))
    for group_id in await reader.dead_log_groups(now):
        try:
            await segments.delete_group(group_id)
            if group_id in settled:
                async with store.write() as transaction:
                    await transaction.purge_dead_log_group(group_id)
        except (StoreError, SegmentsError) as exc:
            report.failed.append(f"{group_id.hex()}: {exc}")
        else:
            report.removed.append(group_id.hex())


async def _delete_queries(store: LogStore, segments: Segments, now: datetime, report: RetentionReport) -> None:
    reader = await store.read()
    for query_id in await reader.old_log_queries(now - RESULTS_KEPT, BATCH):
        try:
            await segments.delete_result(query_id)
            async with store.write() as transaction:
                await transaction.delete_log_query(query_id)
        except (StoreError, SegmentsError) as exc:
            report.failed.append(f"query {query_id}: {exc}")
        else:
            report.queries.append(query_id)
