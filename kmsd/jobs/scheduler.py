"""Scheduler of the jobs: runs them when due, or on an operator's request, in one process at a time. The only loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
import structlog

from kmsd.custody import wrapped_material
from kmsd.custody.message_counts import ROTATE_AT_MESSAGES
from kmsd.domain.material import AT, TokenName
from kmsd.jobs import deletion, expiry, reconcile, rewrap, rotation, wrapping_keys
from kmsd.jobs.leased_store import LeasedStore
from kmsd.ports import (
    Clock,
    DueKind,
    Reader,
    Store,
    StoreError,
    Token,
    TokenError,
    Tokens,
    Transaction,
    TrustedClock,
)
from kmsd.ports.jobs import JobFailed, JobRecorder, JobReport, RetentionJob

LEASE = "jobs"
"""Lease of the jobs of the database. That of the jobs of an HSM ends in `@` and the HSM's name."""
LEASE_TIME = timedelta(seconds=90)
"""Time after which a hung process loses its lease; a process that ended normally releases it at once."""
RUNNING = "jobs-running"
"""Lease held while jobs run, by the scheduler that holds `LEASE` or by the operator's command; likewise of an HSM."""
PATIENCE_SECONDS = 60.0
"""Seconds that the operator's command waits for jobs running in another process."""
TICK = 15.0
"""Seconds between two checks for due jobs. A key's state changes at its exact time anyway; this only bounds how long
the token still holds material that can no longer be used."""
RECONCILE_EVERY = timedelta(hours=1)
SWEEP_EVERY = timedelta(hours=1)
"""Interval of retention sweeps. Expired log events are hidden at once; this bounds how long they stay on disk."""

log = structlog.get_logger()


class Job(StrEnum):
    """Job that an operator can run at once."""

    ROTATION = "rotation"
    EXPIRY = "expiry"
    DELETION = "deletion"
    RECONCILE = "reconcile"
    RETENTION = "retention"
    REWRAP = "rewrap"


DESTRUCTIVE = frozenset({Job.EXPIRY, Job.DELETION, Job.RETENTION})
"""Jobs that destroy what the clock says is due. They are suspended while the clock is in doubt."""
_OF_KEYS = {Job.EXPIRY: expiry.run_once, Job.DELETION: deletion.run_once, Job.ROTATION: rotation.run_once}


class Duties(msgspec.Struct, frozen=True):
    """The leases that a process holds, with what it may do now."""

    of_database: bool
    of_hsm: bool


class JobRefused(Exception):
    """The job was not run; the text says why, and what to do."""


def _of_hsm(lease: str, reader: Reader) -> str:
    """Return the lease of this name for the jobs of this node's HSM: each HSM has its own objects."""
    return f"{lease}{AT}{reader.hsm}"


class Scheduler(msgspec.Struct):
    """Scheduler of one process. It runs jobs only while it holds their leases."""

    store: Store
    tokens: Tokens
    clock: Clock
    record: JobRecorder
    holder: str
    """Name of this process in the lease."""
    stock: int = 0
    """Number of wrapping keys to keep ready of each kind that is in demand."""
    retention: RetentionJob | None = None
    """Retention job of the logs service; None: this process does not run it."""
    watch: TrustedClock | None = None
    """Assesses the clock; None: the clock is always trusted, as in tests."""
    _swept_at: datetime | None = None
    _reconciled_at: datetime | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Check for due jobs until `stopping` is set, then release the leases so that another process can continue."""
        try:
            while not stopping.is_set():
                try:
                    await self.tick()
                except Exception:
                    # An unexpected error in one job must not stop all of them.
                    log.exception("job_failed")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), TICK)
        finally:
            await self._release(LEASE, RUNNING)

    async def _release(self, *names: str) -> None:
        try:
            async with self.store.write() as transaction:
                for name in names:
                    await transaction.release_lease(name, self.holder)
                    await transaction.release_lease(_of_hsm(name, transaction), self.holder)
        except StoreError as exc:
            log.warning("jobs_lease_not_released", lasts=LEASE_TIME.total_seconds(), detail=str(exc))

    async def tick(self) -> None:
        """Run everything that is due now, if the lease can be acquired."""
        try:
            if self.retention is not None:
                # Each process finishes its own files, even without the lease.
                await self.retention.maintain(self.clock.now())
            duties = await self._acquire()
            if duties.of_database or duties.of_hsm:
                try:
                    await self._run_due(duties)
                finally:
                    await self._release(RUNNING)
        except (StoreError, TokenError, JobFailed) as exc:
            log.warning("jobs_postponed", detail=str(exc))

    async def _acquire(self) -> Duties:
        async with self.store.write() as transaction:
            if await wrapped_material.lacking_domain_keys(transaction):
                # A job could not use the keys of the database. A node of an HSM that can is to have the lease.
                await transaction.release_lease(LEASE, self.holder)
                held = False
            else:
                held = await self._has(transaction, LEASE)
            if self.watch is not None:
                # The holder of the lease stores the trusted time for all processes of its node. On the other nodes one
                # of them does.
                await (self.watch.persist(transaction) if held else self.watch.keep(transaction))
            of_hsm = [_of_hsm(name, transaction) for name in (LEASE, RUNNING)]
            return Duties(
                held and await self._has(transaction, RUNNING),
                await self._has(transaction, of_hsm[0]) and await self._has(transaction, of_hsm[1]),
            )

    async def _has(self, transaction: Transaction, lease: str) -> bool:
        """Acquire or renew a lease. False if another process has it."""
        now = self.clock.now()
        return await transaction.acquire_lease(lease, self.holder, now, now + LEASE_TIME)

    async def run_now(self, job: Job, advance: Callable[[int], object] = lambda _: None) -> JobReport:
        """Run everything that is due of one job, and return its report. A running daemon's scheduler waits meanwhile.

        `advance` is called with the number of keys or materials that were handled. Raises `JobRefused`, `StoreError`,
        `TokenError`, `JobFailed`.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await self._run_turn(job):  # noqa: ASYNC110 (the lease is held by another process)
                    await asyncio.sleep(0.1)
        except TimeoutError as exc:
            raise JobRefused("another process is running jobs: try again later") from exc
        try:
            if self._is_suspended and job in DESTRUCTIVE:
                raise JobRefused(
                    "the clock was set forward, so nothing that is due by it alone is destroyed: "
                    "set it right, or tell that it is with `kmsd jobs confirm-clock`"
                )
            return await self._run_all(job, advance)
        finally:
            await self._release(RUNNING)

    async def _run_turn(self, job: Job) -> bool:
        async with self.store.write() as transaction:
            if self.watch is not None:
                await self.watch.refresh(transaction)
            return await self._has(transaction, _of_hsm(RUNNING, transaction) if job is Job.RECONCILE else RUNNING)

    async def _run_all(self, job: Job, advance: Callable[[int], object]) -> JobReport:
        now = await self._now()
        if job is Job.RECONCILE:
            settled = reconcile.ReconcileReport()
            for name, token in self.tokens.items():
                settled.add(await reconcile.run_once(await self._leased_of_hsm(), token, now, name=name))
            return settled
        if job is Job.RETENTION:
            if self.retention is None:
                raise JobRefused("this process has no log events")
            return await self.retention.sweep(now)
        # One run handles a limited number of keys. Repeat as long as a run makes progress.
        report = last = await self._run_once(job, now)
        while any(count for name, count in last.counts().items() if name not in ("failed", "tampered")):
            advance(sum(count for name, count in last.counts().items() if name not in ("failed", "tampered")))
            await self._run_turn(job)
            last = await self._run_once(job, now)
            report.failed.clear()
            report.add(last)
        return report

    async def _run_once(self, job: Job, now: datetime) -> JobReport:
        if job is Job.REWRAP:
            return await rewrap.run_once(self._leased, self.tokens, self.clock)
        return await _OF_KEYS[job](self._leased, self.tokens, now, self.record)

    @property
    def _leased(self) -> LeasedStore:
        """The store, for jobs of the database."""
        return LeasedStore(self.store, self.clock, RUNNING, self.holder, LEASE_TIME)

    async def _leased_of_hsm(self) -> LeasedStore:
        """Return the store, for jobs of this node's HSM."""
        lease = _of_hsm(RUNNING, await self.store.read())
        return LeasedStore(self.store, self.clock, lease, self.holder, LEASE_TIME)

    async def _now(self) -> datetime:
        """Return the trusted time: the wall clock may change between the check and the destruction.

        It is the earliest of all nodes: none of them finds something destroyed that its own clock would not allow.
        """
        own = self.clock.now() if self.watch is None else self.watch.trusted_now()
        others = await (await self.store.read()).trusted_by_others()
        return own if others is None else min(own, others)

    async def _run_due(self, duties: Duties) -> None:
        now = await self._now()
        if duties.of_hsm:
            if self._reconciled_at is None or abs(now - self._reconciled_at) >= RECONCILE_EVERY:
                await self._reconcile(now)
            if not self._is_suspended:
                await self._keep_wrapping_keys(now)
        if duties.of_database:
            await self._run_due_of_database(now)

    async def _run_due_of_database(self, now: datetime) -> None:
        reader = await self.store.read()
        for job, run_once in _OF_KEYS.items():
            if self._is_suspended and job in DESTRUCTIVE:
                continue
            due = await reader.next_due(DueKind(job.value))
            is_worn = job is Job.ROTATION and bool(await reader.worn_keys(ROTATE_AT_MESSAGES))
            if is_worn or (due is not None and due <= now):
                report = await run_once(self._leased, self.tokens, now, self.record)
                log.info("job", job=job.value, **report.counts())
        await self._rewrap()
        if self._is_suspended:
            return
        if self.retention is not None and (self._swept_at is None or abs(now - self._swept_at) >= SWEEP_EVERY):
            self._swept_at = now
            report = await self.retention.sweep(now)
            log.info("job", job="retention", **report.counts())

    @property
    def _is_suspended(self) -> bool:
        """True if nothing may be destroyed now, as it may be due only by a wrong clock."""
        judgement = None if self.watch is None else self.watch.judgement
        return judgement is not None and judgement.suspended

    async def _rewrap(self) -> None:
        report = await rewrap.run_once(self._leased, self.tokens, self.clock)
        for material_id in report.tampered:
            log.error("wrapped_material_tampered", material=material_id.hex())
        if any(report.counts().values()):
            log.info("job", job="rewrap", rewrapped=report.rewrapped, failed=report.failed)

    async def _keep_wrapping_keys(self, now: datetime) -> None:
        report = await wrapping_keys.run_once(await self._leased_of_hsm(), self.tokens, now, stock=self.stock)
        if any(report.counts().values()):
            log.info("job", job="wrapping_keys", **report.counts())

    async def _reconcile(self, now: datetime) -> None:
        for name, token in self.tokens.items():
            try:
                await self._reconcile_with(token, name, now)
            except TokenError as exc:
                # A failing token does not keep the other from being reconciled.
                log.warning("job_postponed", job="reconcile", token=name, detail=str(exc))
        self._reconciled_at = now

    async def _reconcile_with(self, token: Token, name: TokenName, now: datetime) -> None:
        report = await reconcile.run_once(await self._leased_of_hsm(), token, now, name=name)
        for object_id in report.missing:
            log.error("key_material_missing", object_id=object_id.hex())
        for domain_key_id in report.domain_keys_missing:
            log.error("domain_key_missing", domain_key=domain_key_id.hex(), token=name)
        for material_id in report.tampered:
            log.error("wrapped_material_tampered", material=material_id.hex())
        for found in report.malformed:
            log.error("token_object_malformed", object_id=found.object_id.hex(), problem=found.problem)
        log.info("job", job="reconcile", token=name, **report.counts())
