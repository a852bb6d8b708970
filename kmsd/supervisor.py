"""The parent of the workers: binds the socket, starts them, watches them, starts them anew, replaces them, stops them.

It never touches the token, so nothing that a PKCS#11 module does can take it down. The first worker is
started alone: if the token refuses the PIN, nobody offers it a second time.

    SIGHUP: the configuration is read and tried. Then, one after the other, a new worker starts; when it serves, an old
    one accepts no more connections, answers the next request of each that it has with `Connection: close`, and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kmsd import __version__, service_manager
from kmsd.accepted import Accepted, changes, need_restart
from kmsd.children import Child, Children, NotBorn
from kmsd.config import ConfigError
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.lines import READY, Lines
from kmsd.wire.listeners import ListenerRefused, bind_tcp, bind_unix, inherited
from kmsd.zygote import Order

START_SECONDS = 90.0
STOP_SECONDS = 30.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
HEALTHY_SECONDS = 10.0
"""A worker that lived so long is started anew without a pause."""
REPLACE_ATTEMPTS = 3
"""How often a worker is started in another's place, once one has shown that the new configuration works."""

log = structlog.get_logger()


class StartFailed(Exception):
    """The daemon cannot serve; `status` is what the process exits with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a worker ended with status {status} before it was ready")
        self.status = status


def listener_of(address: str) -> socket.socket:
    """The socket that systemd passed, or else one of our own for `address`. Raises `ListenerRefused`, ValueError."""
    passed = service_manager.passed_sockets()
    if len(passed) > 1:
        raise ListenerRefused(
            f"systemd passed {len(passed)} sockets, and one is served: name one address in kmsd.socket"
        )
    return inherited(passed[0]) if passed else bind(address)


def bind(address: str) -> socket.socket:
    """The listening socket for `HOST:PORT` or `unix:PATH`. Raises `ListenerRefused`, and ValueError for a bad port."""
    if address.startswith("unix:"):
        return bind_unix(Path(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return bind_tcp(host.strip("[]"), int(port))


class _Worker(msgspec.Struct, eq=False):
    """A place for a worker, and the process that fills it at present."""

    index: int
    """Names its audit chain: no two processes have the same at once."""
    process: Child
    started: float
    relieved: bool = False
    """Another has taken over; it finishes what it has begun, and is not started anew."""
    watch: asyncio.Task[None] | None = None


class Supervisor(msgspec.Struct):
    """Runs `config.workers` workers on one socket until it is told to stop."""

    accepted: Accepted
    config_path: Path
    listener: socket.socket
    children: Children
    metrics: int | None = None
    """Descriptor of the memory that workers count in; None: nobody wants the figures."""
    _stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    _reload_wanted: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    _workers: list[_Worker] = []
    _no_trial: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Clear while it is not yet known whether a new configuration works; no dead worker is started meanwhile."""
    _life: tuple[int, int] = (-1, -1)
    _pin_refused: bool = False
    """At the last reload. No worker is started until another reload: each would offer the PIN again."""
    _failed: int = 0

    async def run(self) -> int:
        """The exit status of the daemon."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        self._no_trial.set()
        # The life line: workers hold its reading end and leave when the parent, however it dies, lets go of the other.
        self._life = os.pipe()
        self.children.begin()
        try:
            await self._start_all()
            config = self.accepted.config
            log.info(
                "ready",
                version=__version__,
                address=config.listen.address,
                workers=config.workers,
                configuration=str(self.config_path),
                data_dir=str(config.data_dir),
            )
            self._say_ready()
            tasks = [asyncio.create_task(self._pat_watchdog()), asyncio.create_task(self._reload_when_asked())]
            await self._stopping.wait()
            service_manager.notify("STOPPING=1")
            await self._end_all()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._end_all()  # one that a reload had just started
            log.info("stopped", version=__version__, status=self._failed)
        except StartFailed as exc:
            self._stopping.set()
            await self._end_all()
            return exc.status
        finally:
            self.children.end()
            for descriptor in self._life:
                os.close(descriptor)
        return self._failed

    def _say_ready(self, addition: str = "") -> None:
        service_manager.notify("READY=1", f"STATUS={self._serving} workers serve{addition}")

    @property
    def _serving(self) -> int:
        return sum(not worker.relieved for worker in self._workers)

    async def _pat_watchdog(self) -> None:
        """Tell systemd that this process lives; what a worker does that hangs is the token adapter's care."""
        seconds = service_manager.watchdog_seconds()
        while seconds is not None:
            service_manager.notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 3)

    # --- Starting and ending ------------------------------------------------------------------------

    async def _start_all(self) -> None:
        """The first workers. Raises `StartFailed`.

        The first serves before the others begin: if the token refuses the PIN, nobody offers it a second time.
        """
        await self._start(0)
        others = [self._start(index) for index in range(1, self.accepted.config.workers)]
        for result in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _start(self, index: int) -> None:
        """One more worker, that serves and is watched. Raises `StartFailed`."""
        worker = _Worker(index, await self._spawn(index), asyncio.get_running_loop().time())
        self._workers.append(worker)
        worker.watch = asyncio.create_task(self._watch(worker))

    async def _spawn(self, index: int) -> Child:
        """A worker process that has said that it is ready. Raises `StartFailed`."""
        born = asyncio.create_task(self.children.worker(partial(self._order, index)))
        try:
            await self._until_stopping(born)
            if self._stopping.is_set():
                self.children.no_more()
            elif not born.done():
                raise StartFailed(EXIT_CONFIG)
            child, words = await born
        except NotBorn as exc:
            raise StartFailed(0 if self._stopping.is_set() else EXIT_CONFIG) from exc
        finally:
            born.cancel()
        said = asyncio.create_task(words.rest())
        try:
            await self._until_stopping(said)
            if said.done() and said.result() == READY:
                return child
        finally:
            said.cancel()
            words.close()
        await _end(child)
        status = await child.wait()
        if self._stopping.is_set():
            raise StartFailed(0)
        raise StartFailed(status if status > 0 else EXIT_CONFIG)

    def _order(self, index: int, ready: int) -> Order:
        accepted = self.accepted
        lines = Lines(index, self.listener.fileno(), ready, self._life[0], accepted.text, self.metrics, accepted.tls)
        return lines.order

    async def _until_stopping(self, task: asyncio.Task[Any]) -> None:
        """Wait for the task; not if the daemon is to stop, and not longer than a start may take."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([task, stop], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def _watch(self, worker: _Worker) -> None:
        """See one worker through to its end; start another in its place unless it was to end."""
        pause = FIRST_PAUSE
        while True:
            status = await worker.process.wait()
            if self._is_to_end(worker):
                break
            log.error("worker died", worker=worker.index, status=status)
            if status == EXIT_REFUSED:
                self._fail()
                break
            lived = asyncio.get_running_loop().time() - worker.started
            pause = FIRST_PAUSE if lived > HEALTHY_SECONDS else min(pause * 2, LONGEST_PAUSE)
            while not await self._start_anew(worker, pause):
                pause = min(pause * 2, LONGEST_PAUSE)
        self._workers.remove(worker)

    async def _start_anew(self, worker: _Worker, pause: float) -> bool:
        """Try, after a pause; whether that settles it: it serves again, or is not to."""
        await _sleep_unless(self._stopping, pause)
        await self._no_trial.wait()
        if self._pin_refused:
            self._give_up(worker)
        if self._is_to_end(worker):
            return True
        worker.started = asyncio.get_running_loop().time()
        try:
            worker.process = await self._spawn(worker.index)
        except StartFailed as exc:
            if not self._stopping.is_set():
                log.error("worker did not start", worker=worker.index, status=exc.status)  # noqa: TRY400 (no traceback wanted)
            if exc.status == EXIT_REFUSED:
                self._fail()
            return self._stopping.is_set()
        if self._is_to_end(worker):
            worker.process.send_signal(signal.SIGHUP)
        return True

    def _is_to_end(self, worker: _Worker) -> bool:
        return worker.relieved or self._stopping.is_set()

    def _fail(self) -> None:
        """The token has refused the PIN: no process that could offer it again is left running."""
        self._failed = EXIT_REFUSED
        self._stopping.set()

    def _give_up(self, worker: _Worker) -> None:
        """Leave a place empty, since whoever filled it would offer the PIN again. The last one ends the daemon."""
        worker.relieved = True
        log.error("worker not started: the token refused the PIN at the last reload", worker=worker.index)
        if all(other.relieved for other in self._workers):
            self._fail()

    async def _end_all(self) -> None:
        """Ask every worker to finish what it has begun; insist after a while."""
        workers = list(self._workers)
        await asyncio.gather(*(_end(worker.process) for worker in workers))
        watches = [worker.watch for worker in workers if worker.watch is not None]
        if watches:
            await asyncio.wait(watches)

    # --- Reloading ----------------------------------------------------------------------------------

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            service_manager.reloading()
            try:
                await self._reload()
            except Exception:
                # What runs goes on; a reload that is broken must be the log's loudest line, and not the daemon's end.
                log.exception("reload failed")
                self._say_ready("; the last reload failed, see the log")

    async def _reload(self) -> None:
        """Take the configuration over as it is now, or leave everything as it was."""
        try:
            accepted = self._read_anew()
        except ConfigError as exc:
            self._refuse_reload(str(exc))
            return
        changed = changes(self.accepted.config, accepted.config)
        old = [worker for worker in self._workers if not worker.relieved]
        try:
            await self._try_out(accepted)
        except StartFailed as exc:
            if not self._stopping.is_set():
                self._refuse_reload(f"a worker with it ended with status {exc.status} before it was ready")
            return
        left = await self._replace(old)
        log.info("reloaded", changed=changed, workers=self._serving, unreplaced=left)
        self._say_ready(f"; {left} could not be replaced at the last reload" if left else "")

    async def _try_out(self, accepted: Accepted) -> None:
        """Start a first worker with it; then it is in force. Raises `StartFailed`, and all is as before."""
        before, self._pin_refused = self.accepted, False
        self._no_trial.clear()
        try:
            self.accepted = accepted
            await self._take_over()
        except StartFailed as exc:
            self._pin_refused = exc.status == EXIT_REFUSED
            self.accepted = before
            accepted.close()
            raise
        finally:
            self._no_trial.set()
        before.close()

    def _read_anew(self) -> Accepted:
        """Raises `ConfigError` for what is broken, and for what cannot be changed under a running daemon."""
        accepted = Accepted.read(self.config_path)
        fixed = need_restart(self.accepted.config, accepted.config)
        if fixed:
            accepted.close()
            raise ConfigError(f"{self.config_path}: {', '.join(fixed)} changed, which needs a restart")
        return accepted

    def _refuse_reload(self, detail: str) -> None:
        log.error("reload refused", detail=detail, consequence="the configuration before it stays in force")
        self._say_ready("; the last reload was refused, see the log")

    async def _replace(self, old: list[_Worker]) -> int:
        """Have new workers, the first of which serves, take over from the `old`; how many of those had to stay."""
        for place in range(self.accepted.config.workers):
            if place > 0 and not await self._take_over_stubbornly():
                return len(old)
            if old:
                self._relieve(old.pop(0))
        for worker in old:
            self._relieve(worker)
        return 0

    async def _take_over_stubbornly(self) -> bool:
        """One more worker, after some attempts; False: there is none."""
        for attempt in range(1, REPLACE_ATTEMPTS + 1):
            try:
                await self._take_over()
            except StartFailed as exc:
                if self._stopping.is_set() or exc.status == EXIT_REFUSED:
                    self._pin_refused = exc.status == EXIT_REFUSED
                    break
                log.error("worker did not start", status=exc.status, attempt=attempt)  # noqa: TRY400 (as above)
            else:
                return True
        return False

    async def _take_over(self) -> None:
        """One more worker, with a name that nobody has. Raises `StartFailed`."""
        # At most twice as many processes as are to serve: a token has so many sessions.
        while sum(one.relieved for one in self._workers) >= self.accepted.config.workers:
            watches = [one.watch for one in self._workers if one.relieved and one.watch is not None]
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        taken = {worker.index for worker in self._workers}
        await self._start(next(index for index in range(len(taken) + 1) if index not in taken))

    def _relieve(self, worker: _Worker) -> None:
        """Have a worker finish what it has begun, in its own time but not for ever."""
        worker.relieved = True
        if worker.process.returncode is None:
            worker.process.send_signal(signal.SIGHUP)
            asyncio.get_running_loop().call_later(STOP_SECONDS, _insist, worker.process)


def _insist(process: Child) -> None:
    if process.returncode is None:
        process.kill()


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


async def _end(process: Child) -> None:
    """Ask a worker to finish what it has begun; insist after a while."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
