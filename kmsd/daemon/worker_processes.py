"""Child processes of `kmsd serve`: the fork server, and the workers that it forks.

Workers are children of this process, not of the fork server: with PR_SET_CHILD_SUBREAPER (prctl(2)) the kernel makes
this process the parent when the intermediate process ends. The fork server may be killed at any time: only the next
worker needs a new one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import msgspec
import structlog

from kmsd.daemon.fork_server import ForkServer, SpawnRequest
from kmsd.linux.prctl import adopt_orphans

SPAWN_TIMEOUT_SECONDS = 60.0
"""Seconds in which a fork server must start a worker, its own start included. A slower one is replaced."""
ATTEMPTS = 3
"""Fork servers tried for one worker."""
FIT_SECONDS = 5.0
"""Seconds after which a fork server that exits is replaced at once. A younger one is replaced with the next worker,
whose attempts have pauses."""
SWEEP_SECONDS = 30.0
STOP_SECONDS = 30.0
"""Seconds in which a process must end after SIGTERM or SIGHUP, before SIGKILL."""
MAX_UNCLAIMED = 64
"""Exit statuses kept of processes whose process id has not been reported yet."""

log = structlog.get_logger()


class SpawnFailed(Exception):
    """No fork server started the worker."""


class Process(msgspec.Struct, eq=False):
    """Worker process. Its process id is not reused before its end is known here."""

    pid: int
    returncode: int | None = None
    """Exit status as in `subprocess`: negative for a signal; None while it runs."""
    _exited: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        """Wait for the end of the process. Return its exit status."""
        await self._exited.wait()
        return self.returncode or 0

    def exited(self, status: int) -> None:
        """Set the exit status and wake waiters. Called by `WorkerProcesses`."""
        self.returncode = status
        self._exited.set()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class PipeReader(msgspec.Struct):
    """Reading end of a pipe to which a process writes."""

    _reader: asyncio.StreamReader
    _transport: asyncio.ReadTransport

    @classmethod
    async def at(cls, descriptor: int) -> Self:
        """Read from a pipe's reading end; `close` closes it."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        return cls(reader, transport)

    async def line(self) -> bytes:
        """Read a line; less, or nothing, if the process closes the pipe."""
        return await self._reader.readline()

    def close(self) -> None:
        """Close the pipe."""
        self._transport.close()


class WorkerProcesses:
    """Child processes of the daemon. Used on one event loop, from `start` to `stop`."""

    def __init__(self, first: ForkServer) -> None:
        self._zygote: ForkServer | None = first
        self._known: dict[int, Process] = {}
        self._watched: dict[int, int] = {}
        """Descriptors by process id; each becomes readable when its process ends (pidfd_open(2))."""
        self._unclaimed: dict[int, tuple[float, int]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._no_more = False

    def start(self) -> None:
        """Adopt orphans, and start to collect the exit status of every child."""
        adopt_orphans()
        if self._zygote is not None:
            self._watch(self._zygote.pid)
        self._sweep()

    def stop_spawning(self) -> None:
        """Start no more workers. A running start ends soon, with a worker or `SpawnFailed`."""
        self._no_more = True
        if self._zygote is not None:
            self._zygote.stop()

    def stop(self) -> None:
        """End the fork server, which holds nothing, and stop watching all processes."""
        self.stop_spawning()
        for pid in list(self._watched):
            self._unwatch(pid)
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _watch(self, pid: int) -> None:
        self._watched[pid] = os.pidfd_open(pid)
        # Not by SIGCHLD: uvloop keeps that for itself.
        asyncio.get_running_loop().add_reader(self._watched[pid], self._reap)

    def _unwatch(self, pid: int) -> None:
        descriptor = self._watched.pop(pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def _sweep(self) -> None:
        """Collect adopted processes that are not watched, every `SWEEP_SECONDS`."""
        self._reap()
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    async def worker(self, request_with: Callable[[int], SpawnRequest]) -> tuple[Process, PipeReader]:
        """Start a worker. Return it, and the pipe whose writing end its request has. Raises `SpawnFailed`."""
        for _ in range(ATTEMPTS):
            if self._no_more:
                break
            try:
                child, reports = await self._attempt(request_with)
            except OSError as exc:
                log.error("fork_server_unresponsive", detail=str(exc))  # noqa: TRY400 (one clear line)
                self._remove()
            else:
                if child is not None:
                    return child, reports
                reports.close()
        raise SpawnFailed

    async def _attempt(self, request_with: Callable[[int], SpawnRequest]) -> tuple[Process | None, PipeReader]:
        """Send one request. Raises OSError if it is not accepted, TimeoutError if no worker starts in time."""
        since = time.monotonic()
        reading, writing = os.pipe()
        reports = await PipeReader.at(reading)
        try:
            try:
                server = self._zygote or self._new()
                server.order(request_with(writing))
            finally:
                os.close(writing)
            async with asyncio.timeout(SPAWN_TIMEOUT_SECONDS):
                line = await reports.line()
        except BaseException:
            reports.close()  # a worker that starts late finds the pipe closed, and ends
            raise
        return self._claim(int(line), since) if line.endswith(b"\n") else None, reports

    def _new(self) -> ForkServer:
        self._zygote = ForkServer.spawned()
        self._watch(self._zygote.pid)
        return self._zygote

    def _remove(self) -> None:
        """Stop the fork server. The next request starts another."""
        old, self._zygote = self._zygote, None
        if old is not None:
            old.stop()

    def _claim(self, pid: int, since: float) -> Process:
        child = Process(pid)
        when, status = self._unclaimed.pop(pid, (0.0, 0))
        if when > since:
            child.exited(status)
        else:
            self._known[pid] = child
            self._watch(pid)
        return child

    def _reap(self) -> None:
        """Collect the exit statuses of all children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._on_exit(pid, os.waitstatus_to_exitcode(status))

    def _on_exit(self, pid: int, status: int) -> None:
        self._unwatch(pid)
        child = self._known.pop(pid, None)
        if child is not None:
            child.exited(status)
        elif self._zygote is not None and pid == self._zygote.pid:
            self._on_fork_server_exit(self._zygote, status)
        else:
            # A worker whose process id has not been read yet, or a PKCS#11 module's process that outlived its worker.
            self._unclaimed[pid] = time.monotonic(), status
            if len(self._unclaimed) > MAX_UNCLAIMED:
                del self._unclaimed[next(iter(self._unclaimed))]

    def _on_fork_server_exit(self, old: ForkServer, status: int) -> None:
        old.exited()
        self._zygote = None
        if self._no_more:
            return
        log.error("fork_server_exited", status=status)
        if time.monotonic() - old.started > FIT_SECONDS:
            with suppress(OSError):  # the next worker's attempt reports the error
                self._new()


def insist(process: Process) -> None:
    """Kill a process, unless it has ended."""
    if process.returncode is None:
        process.kill()


async def kill(process: Process, seconds: float = STOP_SECONDS) -> None:
    """Send SIGTERM, and SIGKILL after `seconds`. Returns when the process has ended."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            process.kill()
            await process.wait()
