"""Copies the records of the audit trail into the log group `/kmsd/audit`, sealed as all log events are.

The trail stays the record; the copy is for reading, and can be made anew at any time. Each file of the trail is a
stream, and how many of a file's records its stream holds says how far the copy has come: so there is no position to
keep beside the copy, and nothing that a crash could make disagree with it. A chain is copied by one process at a time,
which has claimed it: the worker that writes it, as long as it lives, and else any. Locks see to that, not the lease of
the jobs, which outlives its holder.

The copy leaves no trace in the trail. The group lies under the daemon's own key, whose use is not recorded; a key of a
customer's would be used, recorded, copied, and used again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
import structlog

from kmsd.cloudwatch_logs import frame_codec
from kmsd.cloudwatch_logs.events import Batch, size_of
from kmsd.cloudwatch_logs.groups import AUDIT_GROUP, LogGroup, LogStream, group_arn, millis
from kmsd.cloudwatch_logs.ports import AuditTrail, LogStore, SegmentsError, TrailBatch, TrailChain
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.domain.arn import ArnScope
from kmsd.ports import AuditUnavailable, StoreConflict, StoreError, TokenError

SECOND = 1_000
POLL_OFFSET_SECONDS = 0.1
"""Seconds after each full one at which all processes copy: see `_due`."""
YIELD_SECONDS = 0.01
"""Seconds between two batches: a process that has much to copy serves its callers meanwhile."""
CLOCK_STEP = 5_000
"""Milliseconds: records that are further ahead than this were written by a clock that has been set back since."""

log = structlog.get_logger()


class _Cursor(msgspec.Struct):
    """How far one chain has been copied."""

    file: str
    records: int
    """Of this file."""
    end: int = 0
    """Bytes of the file that hold them; 0: they are still to be counted."""
    ends: dict[int, int] = {}
    """The same by number of records, before and after the last batch."""
    confirmed: bool = True
    """Nothing is under way. Whether a batch that failed is in the copy has to be looked up."""


class AuditCopy(msgspec.Struct):
    """The copying of one process. It belongs to one event loop."""

    trail: AuditTrail
    store: LogStore
    logs: LogsService
    arns: ArnScope
    account: str
    """The operator's: its principals may be allowed to read."""
    _group: LogGroup | None = None
    _reached: dict[str, _Cursor] = {}
    _processed: dict[str, tuple[str, int]] = {}
    """By writer: the file and mark at which nothing was left to copy."""
    _last_logged: str = ""

    async def run(self) -> None:
        """Copy what is durable, every second, until it is cancelled: what is left then is for the next start."""
        while True:
            try:
                await self.run_once()
                self._last_logged = ""
            except (StoreError, TokenError, SegmentsError, AuditUnavailable) as exc:
                self._log_once(f"{type(exc).__name__}: {exc}")
            except Exception:
                # A fault here must not end the copying for good; nothing is lost meanwhile, the trail has it.
                log.exception("copy of the audit trail failed")
            await asyncio.sleep(1 - self.logs.now().timestamp() % 1 + POLL_OFFSET_SECONDS)

    def _log_once(self, problem: str) -> None:
        """Once, not every second."""
        if problem != self._last_logged:
            log.warning("copy of the audit trail put off", detail=problem)
            self._last_logged = problem

    async def run_once(self) -> int:
        """Copy what is due in all chains of this process; how many records. One bad chain does not stop the others.

        Raises what the first one that failed did.
        """
        copied, failed, group = 0, None, await self._ensured_group()
        for chain in await self.trail.chains():
            if self._processed.get(chain.writer) == (chain.files[-1], chain.mark):
                continue
            try:
                if await self.trail.lock_chain(chain.writer):
                    copied += await self._copy(group, chain)
            except (StoreError, TokenError, SegmentsError, AuditUnavailable) as exc:
                failed = failed or exc
            finally:
                if not chain.own:
                    self.trail.unlock_chain(chain.writer)
        if failed is not None:
            raise failed
        return copied

    async def _copy(self, group: LogGroup, chain: TrailChain) -> int:
        reached = self._reached.get(chain.writer)
        known = reached is not None and reached.confirmed and reached.file in chain.files
        if reached is None or not known or not (chain.own or self._is_still(group, reached)):
            found = await self._look_up(group, chain.files)
            if reached is not None and reached.file == found.file:
                # After a batch that failed the file need not be read from its beginning.
                found.ends, found.end = reached.ends, reached.ends.get(found.records, 0)
            reached = self._reached[chain.writer] = found
        reached.confirmed = False
        copied = await self._copy_from(group, chain, reached)
        reached.confirmed = True
        return copied

    async def _copy_from(self, group: LogGroup, chain: TrailChain, reached: _Cursor) -> int:
        copied = 0
        for file in chain.files[chain.files.index(reached.file) :]:
            if file != reached.file:
                reached.file, reached.records, reached.end, reached.ends = file, 0, 0, {}
            while True:
                skip = reached.records if reached.end == 0 else 0
                batch = await self.trail.read(chain.writer, file, begin=reached.end, skip=skip)
                if batch.lacking:
                    # A chain of the trail only grows. What was copied of it is still there to be compared with.
                    log.error(
                        "the trail has fewer records than its copy: it was set back", file=file, lacking=batch.lacking
                    )
                count, due = len(batch.times), self._due(batch.times)
                if due:
                    reached.ends = {reached.records: reached.end, reached.records + due: batch.ends[due - 1]}
                    await self._append(group, file, batch, due)
                    copied += due
                    reached.records += due
                    reached.end = batch.ends[due - 1]
                    await asyncio.sleep(YIELD_SECONDS)
                if due < count or not (batch.complete or count):
                    return copied
                reached.end = batch.end
                if batch.complete:
                    break
        self._processed[chain.writer] = (chain.files[-1], chain.mark)
        return copied

    def _is_still(self, group: LogGroup, reached: _Cursor) -> bool:
        """Whether no other process has copied this chain meanwhile."""
        found = self.logs.segments.summaries(group.group_id).get(_stream_id(group, reached.file))
        return (0 if found is None else found.events) == reached.records

    async def _look_up(self, group: LogGroup, files: Sequence[str]) -> _Cursor:
        """Where a process that has just claimed a chain goes on: in the last file of which anything has been copied.

        What is counted must not be gone with the power: a process that died may have left a batch that was not synced.
        """
        await self.logs.segments.sync(group.group_id)
        summaries = self.logs.segments.summaries(group.group_id)
        for file in reversed(files):
            found = summaries.get(_stream_id(group, file))
            if found is not None:
                return _Cursor(file, found.events)
        return _Cursor(files[0], 0)

    def _due(self, times: Sequence[int]) -> int:
        """How many records there are up to the first of a second that has not ended.

        Every process copies complete seconds only, right after they end. A client that polls with startTime = its
        newest timestamp would otherwise miss records that another process adds to that second later.
        """
        second = millis(self.logs.now()) // SECOND * SECOND
        if max(times, default=0) >= second:
            for index, time in enumerate(times):
                if second <= time < second + CLOCK_STEP:
                    return index
        return len(times)

    async def _append(self, group: LogGroup, file: str, records: TrailBatch, due: int) -> None:
        """Seal and store the first `due` records as one batch; durable on return, as a whole or not at all."""
        stream = await self._ensured_stream(group, file)
        times, texts = records.times[:due], records.texts[:due]
        # A call is recorded when it ends, with the time at which it began.
        in_order = sorted(times)
        if times != in_order:
            texts = [texts[index] for index in sorted(range(due), key=times.__getitem__)]
        batch = Batch(in_order, texts, size_of(texts))
        now = self.logs.now()
        reader = await self.store.read()
        # Records resemble each other so much that compressing costs less than to seal and store them as they are.
        sealed = await frame_codec.seal(self.logs, reader, group, stream, batch, now=now, compress=True)
        await self.logs.segments.append(group.group_id, sealed.frame, sealed.content, sealed.data_key)

    # --- The group and its streams ------------------------------------------------------------------

    async def _ensured_group(self) -> LogGroup:
        if self._group is None:
            self._group = await (await self.store.read()).log_group(self.account, AUDIT_GROUP)
        if self._group is None:
            now = self.logs.now()
            try:
                async with self.store.write() as transaction:
                    await transaction.insert_account(self.account, now)
                    await transaction.insert_log_group(self._new_group(now))
            except StoreConflict:
                log.debug("another process was first", group=AUDIT_GROUP)
            self._group = await (await self.store.read()).log_group(self.account, AUDIT_GROUP)
        if self._group is None:
            raise StoreError(f"the log group {AUDIT_GROUP} was not stored")
        return self._group

    def _new_group(self, now: datetime) -> LogGroup:
        arn = group_arn(self.arns, self.account, AUDIT_GROUP)
        return LogGroup(secrets.token_bytes(16), self.account, AUDIT_GROUP, arn, now)

    async def _ensured_stream(self, group: LogGroup, file: str) -> LogStream:
        known = await (await self.store.read()).log_stream(group.group_id, file)
        if known is None:
            known = LogStream(_stream_id(group, file), group.group_id, file, self.logs.now())
            async with self.store.write() as transaction:
                await transaction.insert_log_stream(known)
        return known


def _stream_id(group: LogGroup, file: str) -> bytes:
    """The same for the same file, also after the store was restored from a time before the stream."""
    return sha256(group.group_id + file.encode()).digest()[:16]
