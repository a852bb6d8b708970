"""Supervisor of the workers: starts and watches them, replaces them at a reload, stops them.

It never uses the token, so no fault of a PKCS#11 module can end it. The first worker is started alone: if the token
refuses the PIN, no other worker offers it again. While token, database or disk are away, a stand-in answers, and the
first worker is retried until it starts.

    SIGHUP: read the configuration and try it out. Then replace the workers one by one. When a new worker serves, an old
    one accepts no more connections, answers the next request of each open connection with `Connection: close`, and
    ends.

A worker that asks for it is replaced in the same way, with the configuration in force, one after the other.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from kmsd import __version__
from kmsd.config.reload_verdict import Outcome, Verdict
from kmsd.config.settings import ConfigError
from kmsd.config.snapshot import ConfigSnapshot, changes, need_restart
from kmsd.daemon.worker_pool import (
    BACKOFF_INITIAL_SECONDS,
    BACKOFF_MAX_SECONDS,
    StartFailed,
    Worker,
    WorkerPool,
    sleep_unless,
)
from kmsd.daemon.worker_processes import Process
from kmsd.daemon.worker_spec import not_ready
from kmsd.exit_codes import EXIT_PIN_REFUSED
from kmsd.linux import systemd
from kmsd.ports import StoreUnavailable
from kmsd.wire.http.listeners import address_of

REPLACE_ATTEMPTS = 3
"""Attempts to start a replacement worker, after one worker has shown that the new configuration works."""
RECYCLE_PAUSE_SECONDS = 10.0
"""Seconds until the next attempts, if no worker started in place of one that asked for its replacement."""

log = structlog.get_logger()


class Supervisor(msgspec.Struct):
    """Supervisor of `config.workers` workers on one socket. Runs until SIGTERM or SIGINT."""

    pool: WorkerPool
    config_path: Path
    prepare: Callable[[], Awaitable[None]]
    """Locks the data folder and migrates the database. Raises `ConfigError`, `StoreUnavailable`."""
    reloads: dict[Outcome, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    """Number of reloads by outcome."""
    after_reload: list[Callable[[], None]] = msgspec.field(default_factory=list)
    """Called when another configuration has come into force."""
    _prepared: bool = False
    _reload_wanted: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    _replacing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    """Held while workers are replaced, by a reload or because one has asked."""

    async def run(self) -> int:
        """Run the daemon. Return its exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.pool.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        self.pool.open()
        tasks = [asyncio.create_task(self._notify_watchdog())]
        try:
            await self._come_up()
            tasks.append(asyncio.create_task(self._reload_when_asked()))
            tasks.append(asyncio.create_task(self._recycle_when_asked()))
            await self.pool.stopping.wait()
            systemd.notify("STOPPING=1")
            await self.pool.stop_all()
        except StartFailed as exc:
            self._report(exc)
        finally:
            self.pool.stopping.set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.pool.stop_all()  # again, for a worker that a reload had just started
            self.pool.close()
        log.info("stopped", version=__version__, status=self.pool.failed)
        return self.pool.failed

    def _report(self, failure: StartFailed) -> None:
        """Log why the daemon ends before it serves, unless it is stopping anyway."""
        report = failure.reported
        if self.pool.stopping.is_set():
            return
        self.pool.failed = report.status
        if report.status != EXIT_PIN_REFUSED:  # the pool has logged that
            log.critical("start_failed", missing=report.missing, detail=report.detail)

    def _report_ready(self, addition: str = "") -> None:
        # While the daemon waits, keep the status that says what is missing.
        status = () if self.pool.waiting.lasted else (f"STATUS={self.pool.serving} workers serve{addition}",)
        systemd.notify("READY=1", *status)

    async def _notify_watchdog(self) -> None:
        """Notify systemd that this process is alive. The token adapter handles calls that hang in a worker."""
        seconds = systemd.watchdog_seconds()
        while seconds is not None:
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 3)

    # --- Start --------------------------------------------------------------------------------------

    async def _come_up(self) -> None:
        """Start the workers, and retry until they serve. Raises `StartFailed` for errors that an operator must fix."""
        pause = BACKOFF_INITIAL_SECONDS
        while True:
            try:
                await self._start()
                break
            except StartFailed as exc:
                if exc.final or self.pool.stopping.is_set():
                    raise
                await self.pool.wait_for(exc)
            await self._pause(pause)
            pause = min(pause * 2, BACKOFF_MAX_SECONDS)
        config, waited = self.pool.snapshot.config, self.pool.waiting.lasted
        self.pool.waiting.stop()
        log.info(
            "ready",
            version=__version__,
            address=address_of(self.pool.listener),
            workers=config.workers,
            configuration=str(self.config_path),
            data_dir=str(config.data_dir),
            **({"waited_seconds": round(waited, 1)} if waited else {}),
        )
        self._report_ready()

    async def _start(self) -> None:
        """Make one attempt. Raises `StartFailed`.

        The others start once the first worker serves: if the token refuses the PIN, no other worker offers it again.
        """
        try:
            if not self._prepared:
                await self.prepare()
                self._prepared = True
        except (ConfigError, StoreUnavailable) as exc:
            raise StartFailed(not_ready(exc)) from exc
        await self.pool.start(0)
        await self.pool.start_others()

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until a stop or a reload is requested; do the reload."""
        wanted = [asyncio.create_task(one.wait()) for one in (self.pool.stopping, self._reload_wanted)]
        try:
            await asyncio.wait(wanted, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in wanted:
                task.cancel()
        if self._reload_wanted.is_set():
            await self._carry_out_reload()

    # --- Reload -------------------------------------------------------------------------------------

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_wanted.wait()
            await self._carry_out_reload()

    async def _carry_out_reload(self) -> None:
        self._reload_wanted.clear()
        systemd.reloading()
        try:
            async with self._replacing:
                with Verdict() as verdict:
                    await self._reload(verdict)
        except Exception:
            # The present workers continue: a bug in the reload must not end the daemon.
            log.exception("reload_failed")
            self._report_ready("; the last reload failed, see the log")

    async def _reload(self, verdict: Verdict) -> None:
        """Apply the present configuration file, or leave everything as it was."""
        try:
            accepted = self._reread()
        except ConfigError as exc:
            self._refuse_reload(verdict, str(exc))
            return
        changed = changes(self.pool.snapshot.config, accepted.config)
        old = [worker for worker in self.pool.workers if not worker.draining]
        if not old:
            # No worker has served yet: the next attempt to start one tries the new configuration.
            self.pool.snapshot.close()
            self.pool.snapshot = accepted
            self._reloaded(verdict, changed, 0)
            return
        try:
            await self._start_canary(accepted)
        except StartFailed as exc:
            if not self.pool.stopping.is_set():
                self._refuse_reload(verdict, f"a worker with it does not start: {exc}")
            return
        self._reloaded(verdict, changed, await self._replace(old))

    async def _start_canary(self, accepted: ConfigSnapshot) -> None:
        """Start a first worker with the new configuration, which is then in force.

        Raises `StartFailed`; the old configuration then stays in force.
        """
        pool = self.pool
        before, pool.pin_refused = pool.snapshot, False
        pool.reload_idle.clear()
        try:
            pool.snapshot = accepted
            await pool.take_over()
        except StartFailed as exc:
            pool.pin_refused = exc.reported.status == EXIT_PIN_REFUSED
            pool.snapshot = before
            accepted.close()
            raise
        finally:
            pool.reload_idle.set()
        before.close()

    def _reread(self) -> ConfigSnapshot:
        """Read the configuration. Raises `ConfigError` if it is invalid, or changes a setting that needs a restart."""
        accepted = ConfigSnapshot.read(self.config_path)
        fixed = need_restart(self.pool.snapshot.config, accepted.config)
        if fixed:
            accepted.close()
            raise ConfigError(f"{self.config_path}: {', '.join(fixed)} changed, which needs a restart")
        return accepted

    def _reloaded(self, verdict: Verdict, changed: list[str], left: int) -> None:
        outcome = Outcome.PARTIAL if left else Outcome.DONE
        self.reloads[outcome] += 1
        for follow in self.after_reload:
            follow()
        unreplaced = f"{left} workers could not be replaced, and run with the configuration before" if left else ""
        write_log = log.error if left else log.info
        write_log("reloaded", changed=changed, workers=self.pool.serving, unreplaced=left)
        verdict.is_(outcome, unreplaced)
        self._report_ready(f"; {left} could not be replaced at the last reload" if left else "")

    def _refuse_reload(self, verdict: Verdict, detail: str) -> None:
        self.reloads[Outcome.REFUSED] += 1
        log.error("reload_refused", detail=detail, consequence="the previous configuration stays in force")
        verdict.is_(Outcome.REFUSED, detail)
        self._report_ready("; the last reload was refused, see the log")

    async def _replace(self, old: list[Worker]) -> int:
        """Replace the `old` workers; the first new one serves already. Return the number that were not replaced."""
        for place in range(self.pool.snapshot.config.workers):
            if place > 0 and not await self._replace_with_retries():
                return len(old)
            if old:
                self.pool.relieve(old.pop(0))
        for worker in old:
            self.pool.relieve(worker)
        return 0

    async def _replace_with_retries(self) -> bool:
        """Start one more worker, in at most `REPLACE_ATTEMPTS`. False if none started."""
        for attempt in range(1, REPLACE_ATTEMPTS + 1):
            try:
                await self.pool.take_over()
            except StartFailed as exc:
                if self.pool.stopping.is_set() or exc.reported.status == EXIT_PIN_REFUSED:
                    self.pool.pin_refused = exc.reported.status == EXIT_PIN_REFUSED
                    break
                log.error("worker_start_failed", detail=str(exc), attempt=attempt)  # noqa: TRY400 (no traceback wanted)
            else:
                return True
        return False

    # --- Recycling ----------------------------------------------------------------------------------

    async def _recycle_when_asked(self) -> None:
        """Replace each worker that asks for it, one after the other."""
        while True:
            process = await self.pool.asking.get()
            while not await self._recycled(process):
                await sleep_unless(self.pool.stopping, RECYCLE_PAUSE_SECONDS)
            # Only then the next one: there is never more than one additional process.
            await process.wait()

    async def _recycled(self, process: Process) -> bool:
        """Replace the worker in this process, if it still serves. False if another attempt is needed."""
        async with self._replacing:
            worker = self.pool.serving_in(process)
            if worker is None or self.pool.stopping.is_set():
                return True
            # A new worker would offer the refused PIN again. The next reload replaces this one, too.
            if self.pool.pin_refused or not await self._replace_with_retries():
                return False
            self.pool.relieve(worker)
        log.info("worker_recycled", worker=worker.index, workers=self.pool.serving)
        return True
