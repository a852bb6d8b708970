"""Runs the jobs when they are due, or when an operator asks, in one process at a time. The only place that loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
import structlog

from kmsd.custody.message_counts import ROTATE_AT_MESSAGES
from kmsd.domain.key_import import TokenName
from kmsd.jobs import deletion, expiry, reconcile, rotation, wrapping_keys
from kmsd.ports import Clock, DueKind, Store, StoreError, Token, TokenError, TrustedClock
from kmsd.ports.jobs import JobFailed, JobRecorder, JobReport, RetentionJob

LEASE = "jobs"
LEASE_TIME = timedelta(seconds=90)
"""A process that stands still loses its lease after this time; one that has ended loses it at once."""
RUNNING = "jobs-running"
"""Held while jobs run: by the scheduler that holds the lease, or by the operator's command."""
PATIENCE_SECONDS = 60.0
"""How long the operator's command waits for jobs that are under way elsewhere."""
TICK = 15.0
"""Seconds between two looks at what is due. State decides by itself at the instant; this only bounds how long the
token still holds what nobody can use any more."""
RECONCILE_EVERY = timedelta(hours=1)
SWEEP_EVERY = timedelta(hours=1)
"""Log events that are past their retention are not shown from the instant on; this bounds how long they lie there."""

log = structlog.get_logger()


class Job(StrEnum):
    """What an operator may have run at once."""

    ROTATION = "rotation"
    EXPIRY = "expiry"
    DELETION = "deletion"
    RECONCILE = "reconcile"
    RETENTION = "retention"


DESTRUCTIVE = frozenset({Job.EXPIRY, Job.DELETION, Job.RETENTION})
"""They destroy what the clock says is due, and wait while the clock is in doubt."""
_OF_KEYS = {Job.EXPIRY: expiry.run_once, Job.DELETION: deletion.run_once, Job.ROTATION: rotation.run_once}


class JobRefused(Exception):
    """The job was not run; the text says why, and what to do."""


class Scheduler(msgspec.Struct):
    """The jobs of one process. It works only while it holds the lease."""

    store: Store
    token: Token
    clock: Clock
    record: JobRecorder
    holder: str
    """Names this process in the lease."""
    import_token: Callable[[], Token | None] = lambda: None
    """The second token, if there is one and it is open."""
    stock: int = 0
    """Wrapping keys to keep ready of each kind that is in demand."""
    retention: RetentionJob | None = None
    """Of the Logs side; None: this process has none."""
    watch: TrustedClock | None = None
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
            await self._release(LEASE, RUNNING)

    async def _release(self, *names: str) -> None:
        try:
            async with self.store.write() as transaction:
                for name in names:
                    await transaction.release_lease(name, self.holder)
        except StoreError as exc:
            log.warning("the jobs' lease was not given up", lasts=LEASE_TIME.total_seconds(), detail=str(exc))

    async def tick(self) -> None:
        """One look: everything that is due now, if the lease can be had."""
        try:
            if self.retention is not None:
                # Each process finishes its own files, whoever holds the lease.
                await self.retention.maintain(self.clock.now())
            if await self._acquire():
                try:
                    await self._run_due()
                finally:
                    await self._release(RUNNING)
        except (StoreError, TokenError, JobFailed) as exc:
            log.warning("jobs put off", detail=str(exc))

    async def _acquire(self) -> bool:
        async with self.store.write() as transaction:
            now = self.clock.now()
            held = await transaction.acquire_lease(LEASE, self.holder, now, now + LEASE_TIME)
            if self.watch is not None:
                # Whoever works for all remembers for all; the others read.
                await (self.watch.persist(transaction) if held else self.watch.refresh(transaction))
            return held and await transaction.acquire_lease(RUNNING, self.holder, now, now + LEASE_TIME)

    async def run_now(self, job: Job) -> JobReport:
        """Carry out everything that is due of one job; its report. The scheduler of a running daemon waits meanwhile.

        Raises `JobRefused`, `StoreError`, `TokenError`, `JobFailed`.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await self._run_turn():  # noqa: ASYNC110 (what is waited for is in another process)
                    await asyncio.sleep(0.1)
        except TimeoutError as exc:
            raise JobRefused("another process is running jobs: try again later") from exc
        try:
            if self._lease and job in DESTRUCTIVE:
                raise JobRefused(
                    "the clock was set forward, so nothing that is due by it alone is destroyed: "
                    "set it right, or tell that it is with `kmsd jobs confirm-clock`"
                )
            return await self._run_all(job)
        finally:
            await self._release(RUNNING)

    async def _run_turn(self) -> bool:
        async with self.store.write() as transaction:
            if self.watch is not None:
                await self.watch.refresh(transaction)
            now = self.clock.now()
            return await transaction.acquire_lease(RUNNING, self.holder, now, now + LEASE_TIME)

    async def _run_all(self, job: Job) -> JobReport:
        now = self._now()
        if job is Job.RECONCILE:
            settled = reconcile.ReconcileReport()
            for name, token in self._tokens.items():
                settled.add(await reconcile.run_once(self.store, token, now, name=name))
            return settled
        if job is Job.RETENTION:
            if self.retention is None:
                raise JobRefused("this process has no log events")
            return await self.retention.sweep(now)
        # A run takes on so many keys at most; the next goes on, as long as there is any that can be dealt with.
        report: JobReport = await _OF_KEYS[job](self.store, self.token, now, self.record)
        last = report
        while any(count for name, count in last.counts().items() if name != "failed"):
            await self._run_turn()
            last = await _OF_KEYS[job](self.store, self.token, now, self.record)
            report.failed.clear()
            report.add(last)
        return report

    def _now(self) -> datetime:
        """The instant that jobs go by; not the wall clock, which may be set between the judgement and the deed."""
        return self.clock.now() if self.watch is None else self.watch.trusted_now()

    async def _run_due(self) -> None:
        now = self._now()
        if self._reconciled_at is None or abs(now - self._reconciled_at) >= RECONCILE_EVERY:
            await self._reconcile(now)
        reader = await self.store.read()
        for job, run_once in _OF_KEYS.items():
            if self._lease and job in DESTRUCTIVE:
                continue
            due = await reader.next_due(DueKind(job.value))
            is_worn = job is Job.ROTATION and bool(await reader.worn_keys(ROTATE_AT_MESSAGES))
            if is_worn or (due is not None and due <= now):
                report = await run_once(self.store, self.token, now, self.record)
                log.info("job", job=job.value, **report.counts())
        if self._lease:
            return
        await self._keep_wrapping_keys(now)
        if self.retention is not None and (self._swept_at is None or abs(now - self._swept_at) >= SWEEP_EVERY):
            self._swept_at = now
            report = await self.retention.sweep(now)
            log.info("job", job="retention", **report.counts())

    @property
    def _lease(self) -> bool:
        """Whether nothing may be destroyed now: it may be due by a wrong clock alone."""
        judgement = None if self.watch is None else self.watch.judgement
        return judgement is not None and judgement.suspended

    @property
    def _tokens(self) -> dict[TokenName, Token]:
        tokens = {TokenName.MAIN: self.token}
        second = self.import_token()
        return tokens if second is None else {**tokens, TokenName.IMPORT: second}

    async def _keep_wrapping_keys(self, now: datetime) -> None:
        report = await wrapping_keys.run_once(self.store, self._tokens, now, stock=self.stock)
        if any(report.counts().values()):
            log.info("job", job="wrapping keys", **report.counts())

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
        log.info("job", job="reconcile", token=name.value, **report.counts())
