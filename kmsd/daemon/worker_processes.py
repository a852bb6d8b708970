"""The processes of `kmsd serve`: the zygote, which it runs, and the workers, which the zygote forks for it.

Workers are children of this process and not of the zygote's: PR_SET_CHILD_SUBREAPER (prctl(2)) has the kernel hand over
whoever loses the parent between. The zygote may be killed at any time: only the next worker needs another.
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
"""How long a zygote may take for a worker, its own start included. One that takes longer is replaced."""
ATTEMPTS = 3
"""How many zygotes are asked for one worker."""
FIT_SECONDS = 5.0
"""A zygote that lived so long and died is replaced at once; else with the next worker, whose attempts are paced."""
SWEEP_SECONDS = 30.0
STOP_SECONDS = 30.0
"""How long a process may take to end that was told to."""
_MAX_PIPE_BYTES = 4096
"""That a process writes at once (pipe(7), PIPE_BUF)."""
MAX_UNCLAIMED = 64
"""Ends that are remembered of processes which nobody has claimed yet."""

log = structlog.get_logger()


class SpawnFailed(Exception):
    """No zygote brought the worker forth."""


class Process(msgspec.Struct, eq=False):
    """A worker process. Its number is its own until it is known here that it has ended."""

    pid: int
    returncode: int | None = None
    """As `subprocess` has it: negative for a signal; None while it runs."""
    _exited: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        """How it ended, once it has."""
        await self._exited.wait()
        return self.returncode or 0

    def exited(self, status: int) -> None:
        """Of `WorkerProcesses` alone."""
        self.returncode = status
        self._exited.set()

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class PipeReader(msgspec.Struct):
    """What a process writes to its end of a pipe."""

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
        """Up to a line's end; less, or nothing, if it says no more."""
        return await self._reader.readline()

    async def rest(self) -> bytes:
        """Whatever comes next; nothing if it says no more."""
        return await self._reader.read(_MAX_PIPE_BYTES)

    def close(self) -> None:
        """Listen no more."""
        self._transport.close()


class WorkerProcesses:
    """All of them. Belongs to one event loop, from `begin` to `end`."""

    def __init__(self, first: ForkServer) -> None:
        self._zygote: ForkServer | None = first
        self._known: dict[int, Process] = {}
        self._watched: dict[int, int] = {}
        """By process id: a descriptor that can be read when the process has ended (pidfd_open(2))."""
        self._unclaimed: dict[int, tuple[float, int]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._no_more = False

    def start(self) -> None:
        """Hear of every process that ends from now on, or has ended."""
        adopt_orphans()
        if self._zygote is not None:
            self._watch(self._zygote.pid)
        self._sweep()

    def stop_spawning(self) -> None:
        """Start no more workers. A start under way ends soon, with a worker or `SpawnFailed`."""
        self._no_more = True
        if self._zygote is not None:
            self._zygote.stop()

    def stop(self) -> None:
        """End the zygote, which holds nothing, and watch nobody any more."""
        self.stop_spawning()
        for pid in list(self._watched):
            self._unwatch(pid)
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _watch(self, pid: int) -> None:
        self._watched[pid] = os.pidfd_open(pid)
        # uvloop keeps SIGCHLD to itself.
        asyncio.get_running_loop().add_reader(self._watched[pid], self._reap)

    def _unwatch(self, pid: int) -> None:
        descriptor = self._watched.pop(pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def _sweep(self) -> None:
        """Nobody watches strangers."""
        self._reap()
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    async def worker(self, request_with: Callable[[int], SpawnRequest]) -> tuple[Process, PipeReader]:
        """A new worker, and what it writes to the descriptor that its order is made with. Raises `SpawnFailed`."""
        for _ in range(ATTEMPTS):
            if self._no_more:
                break
            try:
                child, words = await self._attempt(request_with)
            except OSError as exc:
                log.error("zygote does not take orders", detail=str(exc))  # noqa: TRY400 (one clear line)
                self._remove()
            else:
                if child is not None:
                    return child, words
                words.close()
        raise SpawnFailed

    async def _attempt(self, request_with: Callable[[int], SpawnRequest]) -> tuple[Process | None, PipeReader]:
        """One order. Raises OSError if nobody takes it, or nothing comes of it in time (TimeoutError)."""
        since = time.monotonic()
        reading, writing = os.pipe()
        words = await PipeReader.at(reading)
        try:
            try:
                present = self._zygote or self._new()
                present.order(request_with(writing))
            finally:
                os.close(writing)
            async with asyncio.timeout(SPAWN_TIMEOUT_SECONDS):
                said = await words.line()
        except BaseException:
            words.close()  # a worker that starts after all finds the pipe closed, and ends
            raise
        return self._claim(int(said), since) if said.endswith(b"\n") else None, words

    def _new(self) -> ForkServer:
        self._zygote = ForkServer.spawned()
        self._watch(self._zygote.pid)
        return self._zygote

    def _remove(self) -> None:
        """Whoever asks next has another zygote."""
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
        """Take note of all that have ended."""
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
            # A worker whose number is still on its way here, or a process of a module's that outlived its worker.
            self._unclaimed[pid] = time.monotonic(), status
            if len(self._unclaimed) > MAX_UNCLAIMED:
                del self._unclaimed[next(iter(self._unclaimed))]

    def _on_fork_server_exit(self, old: ForkServer, status: int) -> None:
        old.exited()
        self._zygote = None
        if self._no_more:
            return
        log.error("zygote died", status=status)
        if time.monotonic() - old.started > FIT_SECONDS:
            with suppress(OSError):  # the next worker's attempt says what it is
                self._new()


def insist(process: Process) -> None:
    """Kill it, unless it has ended."""
    if process.returncode is None:
        process.kill()


async def kill(process: Process) -> None:
    """Ask a process to finish what it has begun; insist after a while."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
