"""Runs the jobs when they are due, in one process at a time. The only place that loops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import structlog

from kmsd.custody.message_counts import ROTATE_AT_MESSAGES
from kmsd.domain.log_group import millis
from kmsd.domain.wrapping import TokenName
from kmsd.jobs import deletion, expiry, reconcile, retention, rotation, wrapping_keys
from kmsd.jobs.clock_watch import ClockWatch
from kmsd.jobs.model import JobRecorder
from kmsd.ports import Clock, DueKind, Store, StoreError, Token, TokenError
from kmsd.ports_logs import Segments, SegmentsError

LEASE = "jobs"
LEASE_TIME = timedelta(seconds=90)
"""A process that dies gives up its lease after this time at the latest."""
TICK = 15.0
"""Seconds between two looks at what is due. State decides by itself at the instant; this only bounds how long the
token still holds what nobody can use any more."""
RECONCILE_EVERY = timedelta(hours=1)
SWEEP_EVERY = timedelta(hours=1)
"""Log events that are past their retention are not shown from the instant on; this bounds how long they lie there."""

log = structlog.get_logger()


class Scheduler(msgspec.Struct):
    """The jobs of one process. It works only while it holds the lease."""

    store: Store
    token: Token
    clock: Clock
    record: JobRecorder
    holder: str
    """Names this process in the lease."""
    import_token: Token | None = None
    stock: int = 0
    """Wrapping keys to keep ready of each kind that is in demand."""
    segments: Segments | None = None
    """Of the Logs side; None: this process has none."""
    watch: ClockWatch | None = None
    """Judges the clock; None: it is beyond doubt, as a test's own is."""
    _swept_at: datetime | None = None
    _reconciled_at: datetime | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Look again and again, until `stopping`; then another process can go on at once."""
        try:
            while not stopping.is_set():
                try:
                    await self.tick()
                except Exception:
                    # A fault in one job must not end all of them for good; it is the log's loudest line.
                    log.exception("job failed")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), TICK)
        finally:
            await self._give_up()

    async def _give_up(self) -> None:
        try:
            async with self.store.write() as transaction:
                await transaction.give_up_lease(LEASE, self.holder)
        except StoreError as exc:
            log.warning("the jobs' lease was not given up", lasts=LEASE_TIME.total_seconds(), detail=str(exc))

    async def tick(self) -> None:
        """One look: everything that is due now, if the lease can be had."""
        try:
            if self.segments is not None:
                # Each process finishes its own segments, whoever holds the lease.
                await self.segments.tidy(millis(self.clock.now()))
            if await self._hold():
                await self._run_due()
        except (StoreError, TokenError, SegmentsError) as exc:
            log.warning("jobs put off", detail=str(exc))

    async def _hold(self) -> bool:
        async with self.store.write() as transaction:
            now = self.clock.now()
            held = await transaction.take_lease(LEASE, self.holder, now, now + LEASE_TIME)
            if self.watch is not None:
                # Whoever works for all remembers for all; the others read.
                await (self.watch.remember(transaction) if held else self.watch.look(transaction))
            return held

    async def _run_due(self) -> None:
        # Not the wall clock: it may be set between the judgement and the deed.
        now = self.clock.now() if self.watch is None else self.watch.trusted_now()
        if self._reconciled_at is None or abs(now - self._reconciled_at) >= RECONCILE_EVERY:
            await self._reconcile(now)
        books = await self.store.read()
        for kind, job in (
            (DueKind.EXPIRY, expiry.run_once),
            (DueKind.DELETION, deletion.run_once),
            (DueKind.ROTATION, rotation.run_once),
        ):
            if self._held and kind is not DueKind.ROTATION:
                continue
            due = await books.next_due(kind)
            is_worn = kind is DueKind.ROTATION and bool(await books.worn_keys(ROTATE_AT_MESSAGES))
            if is_worn or (due is not None and due <= now):
                report = await job(self.store, self.token, now, self.record)
                log.info("job", job=kind.value, **_fields(report))
        if self._held:
            return
        await self._keep_wrapping_keys(now)
        if self.segments is not None and (self._swept_at is None or abs(now - self._swept_at) >= SWEEP_EVERY):
            self._swept_at = now
            log.info("job", job="retention", **_fields(await retention.run_once(self.store, self.segments, now)))

    @property
    def _held(self) -> bool:
        """Whether nothing may be destroyed now: it may be due by a wrong clock alone (DESIGN.md §11)."""
        judgement = None if self.watch is None else self.watch.judgement
        return judgement is not None and judgement.held

    @property
    def _tokens(self) -> dict[TokenName, Token]:
        tokens = {TokenName.MAIN: self.token}
        return tokens if self.import_token is None else {**tokens, TokenName.IMPORT: self.import_token}

    async def _keep_wrapping_keys(self, now: datetime) -> None:
        report = await wrapping_keys.run_once(self.store, self._tokens, now, stock=self.stock)
        if any(_fields(report).values()):
            log.info("job", job="wrapping keys", **_fields(report))

    async def _reconcile(self, now: datetime) -> None:
        for name, token in self._tokens.items():
            try:
                await self._reconcile_with(token, name, now)
            except TokenError as exc:
                # The tokens do not wait for each other.
                log.warning("job put off", job="reconcile", token=name.value, detail=str(exc))
        self._reconciled_at = now

    async def _reconcile_with(self, token: Token, name: TokenName, now: datetime) -> None:
        report = await reconcile.run_once(self.store, token, now, name=name)
        for object_id in report.missing:
            log.error("key material is MISSING in the token", object_id=object_id.hex())
        for found in report.malformed:
            log.error("object lacks a promised attribute", object_id=found.object_id.hex(), problem=found.problem)
        log.info("job", job="reconcile", token=name.value, **_fields(report))


def _fields(report: msgspec.Struct) -> dict[str, int]:
    """How many of each; the audit trail has the names."""
    return {name: len(each) for name, each in msgspec.structs.asdict(report).items()}
