"""Copy of the audit trail in the log group `/kmsd/audit`, encrypted like all log events.

The trail remains the record; the copy is for reading and can be recreated at any time. Each file of the trail is a
stream; of several nodes each copies its own trail, into streams of its own. The number of records in the stream is the
position of the copy, so a crash cannot leave a stored position that disagrees with the copy. One process at a time
copies a chain and holds its lock: the worker that writes the chain while it lives, any process of the host after that.
Locks are used rather than the jobs' lease, which outlives its holder.

The copy leaves no records in the trail. The group uses the daemon's own key, whose use is not recorded. With a
customer's key, each copy would use the key, record the use, copy that record, and use the key again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
import structlog

from kmsd.cloudwatch_logs import frame_codec
from kmsd.cloudwatch_logs.events import Batch, size_of
from kmsd.cloudwatch_logs.frames import MAX_SPAN
from kmsd.cloudwatch_logs.groups import AUDIT_GROUP, LogGroup, LogStream, group_arn, millis
from kmsd.cloudwatch_logs.ports import AuditTrail, LogStore, SegmentsError, TrailBatch, TrailChain
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.domain.arn import ArnScope
from kmsd.ports import AuditUnavailable, StoreConflict, StoreError, TokenError

SECOND = 1_000
POLL_OFFSET_SECONDS = 0.1
"""Seconds after each full second at which all processes copy (see `_due`)."""
YIELD_SECONDS = 0.01
"""Pause in seconds between two batches, so that a process with a large backlog still serves its callers."""
CLOCK_STEP = 5_000
"""Milliseconds. Records further ahead of the clock than this were written before the clock was set back."""

log = structlog.get_logger()


class _Cursor(msgspec.Struct):
    """Position of the copy in one chain."""

    file: str
    records: int
    """Records of this file that have been copied."""
    end: int = 0
    """Offset in the file after those records, in bytes; 0: not yet counted."""
    ends: dict[int, int] = {}
    """Offset by number of records, before and after the last batch."""
    confirmed: bool = True
    """False while a batch is in progress or failed: look up whether it is in the copy."""


class AuditCopy(msgspec.Struct):
    """Copier of one process. Must be used from one event loop."""

    trail: AuditTrail
    store: LogStore
    logs: LogsService
    arns: ArnScope
    account: str
    """The operator's account: its principals may be allowed to read."""
    observe: Callable[[Sequence[str]], Awaitable[None]] | None = None
    """Gets each batch of records before it is copied, and perhaps again after a crash (`kmsd.custody.key_usage`)."""
    node: str = ""
    """Prefix of this node's streams: files of several nodes' trails may have the same names."""
    _group: LogGroup | None = None
    _reached: dict[str, _Cursor] = {}
    _processed: dict[str, tuple[str, int]] = {}
    """File and mark at which a chain was completely copied, by writer."""
    _last_logged: str = ""

    async def run(self) -> None:
        """Copy durable records every second until cancelled. The next start copies the rest."""
        while True:
            try:
                await self.run_once()
                self._last_logged = ""
            except (StoreError, TokenError, SegmentsError, AuditUnavailable) as exc:
                self._log_once(f"{type(exc).__name__}: {exc}")
            except Exception:
                # An unexpected error must not stop the copying. Nothing is lost: the trail still has the records.
                log.exception("audit_copy_failed")
            await asyncio.sleep(1 - self.logs.now().timestamp() % 1 + POLL_OFFSET_SECONDS)

    def _log_once(self, problem: str) -> None:
        """Log a problem once, not every second."""
        if problem != self._last_logged:
            log.warning("audit_copy_delayed", detail=problem)
            self._last_logged = problem

    async def run_once(self) -> int:
        """Copy the due records of all chains; return their number. One bad chain does not stop the others.

        Raises the error of the first chain that failed.
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
        if reached is None or not known or not (chain.own or await self._is_still(group, reached)):
            found = await self._look_up(group, chain.files)
            if reached is not None and reached.file == found.file:
                # After a failed batch, the file need not be read from its beginning.
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
                    # A chain only grows, so the trail was set back. The copy still has the missing records.
                    log.error("audit_trail_shorter_than_copy", file=file, missing=batch.lacking)
                count, due = len(batch.times), self._due(batch.times)
                left, due = due, _within_a_day(batch.times[:due])
                if due:
                    if self.observe is not None:
                        await self.observe(batch.texts[:due])
                    reached.ends = {reached.records: reached.end, reached.records + due: batch.ends[due - 1]}
                    await self._append(group, file, batch, due)
                    copied += due
                    reached.records += due
                    reached.end = batch.ends[due - 1]
                    await asyncio.sleep(YIELD_SECONDS)
                if due < left:
                    continue
                if due < count or not (batch.complete or count):
                    return copied
                reached.end = batch.end
                if batch.complete:
                    break
        self._processed[chain.writer] = (chain.files[-1], chain.mark)
        return copied

    async def _is_still(self, group: LogGroup, reached: _Cursor) -> bool:
        """True if no other process has copied this chain in the meantime."""
        found = (await self.logs.segments.summaries(group.group_id)).get(self._stream_id(group, reached.file))
        return (0 if found is None else found.events) == reached.records

    async def _look_up(self, group: LogGroup, files: Sequence[str]) -> _Cursor:
        """Find where to continue a newly locked chain: in the last file with copied records.

        Syncs first: a process that died may have left an unsynced batch, which a power failure could still remove.
        """
        await self.logs.segments.sync(group.group_id)
        summaries = await self.logs.segments.summaries(group.group_id)
        for file in reversed(files):
            found = summaries.get(self._stream_id(group, file))
            if found is not None:
                return _Cursor(file, found.events)
        return _Cursor(files[0], 0)

    def _due(self, times: Sequence[int]) -> int:
        """Return the number of records before the first one in the current, unfinished second.

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
        """Encrypt and store the first `due` records as one batch; durable on return, completely or not at all."""
        stream = await self._ensured_stream(group, file)
        times, texts = records.times[:due], records.texts[:due]
        # A call is recorded when it ends, with its start time, so records may be out of order.
        in_order = sorted(times)
        if times != in_order:
            texts = [texts[index] for index in sorted(range(due), key=times.__getitem__)]
        batch = Batch(in_order, texts, size_of(texts))
        now = self.logs.now()
        reader = await self.store.read()
        # Records are so similar that compressing them costs less than encrypting and storing them uncompressed.
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
                log.debug("audit_group_exists", group=AUDIT_GROUP)
            self._group = await (await self.store.read()).log_group(self.account, AUDIT_GROUP)
        if self._group is None:
            raise StoreError(f"the log group {AUDIT_GROUP} was not stored")
        return self._group

    def _new_group(self, now: datetime) -> LogGroup:
        arn = group_arn(self.arns, self.account, AUDIT_GROUP)
        return LogGroup(secrets.token_bytes(16), self.account, AUDIT_GROUP, arn, now)

    async def _ensured_stream(self, group: LogGroup, file: str) -> LogStream:
        name = self.node + file
        known = await (await self.store.read()).log_stream(group.group_id, name)
        if known is None:
            known = LogStream(self._stream_id(group, file), group.group_id, name, self.logs.now())
            async with self.store.write() as transaction:
                await transaction.insert_log_stream(known)
        return known

    def _stream_id(self, group: LogGroup, file: str) -> bytes:
        """Return the same id for the same file, even after a restore of the store to a time without the stream."""
        return sha256(group.group_id + (self.node + file).encode()).digest()[:16]


def _within_a_day(times: Sequence[int]) -> int:
    """Return the number of records, from the first on, that fit one frame.

    A file has the records of a day, but also of calls that began before it, and of clocks that were set.
    """
    first = last = times[0] if times else 0
    for index, time in enumerate(times):
        first, last = min(first, time), max(last, time)
        if last - first > MAX_SPAN:
            return index
    return len(times)
