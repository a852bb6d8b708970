"""The parent of the workers: binds the socket, starts them, watches them, starts them anew, stops them.

It never touches the token, so nothing that a PKCS#11 module does can take it down. The first worker is
started alone: if the token refuses the PIN, nobody offers it a second time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from kmsd import service_manager
from kmsd.config import Config
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.wire.listeners import ListenerRefused, bind_tcp, bind_unix, inherited

START_SECONDS = 90.0
STOP_SECONDS = 30.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
HEALTHY_SECONDS = 10.0
"""A worker that lived so long is started anew without a pause."""

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


@dataclass(slots=True)
class Supervisor:
    """Runs `config.workers` workers on one socket until it is told to stop."""

    config: Config
    config_path: Path
    listener: socket.socket
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: int = 0

    async def run(self) -> int:
        """The exit status of the daemon."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # The life line: workers hold its reading end and leave when the parent, however it dies, lets go of the other.
        life_reading, life_writing = os.pipe()
        try:
            first = await self._start(0, life_reading)
            rest = await asyncio.gather(*(self._start(index, life_reading) for index in range(1, self.config.workers)))
            log.info("ready", address=self.config.listen.address, workers=self.config.workers)
            service_manager.notify("READY=1", f"STATUS={self.config.workers} workers serve")
            patting = asyncio.create_task(self._pat_watchdog())
            watches = [asyncio.create_task(self._watch(i, p, life_reading)) for i, p in enumerate([first, *rest])]
            await asyncio.gather(*watches)
            patting.cancel()
        except StartFailed as exc:
            return exc.status
        finally:
            os.close(life_writing)
            os.close(life_reading)
        return self._failed

    async def _pat_watchdog(self) -> None:
        """Tell systemd that this process lives; what a worker does that hangs is the token adapter's care."""
        seconds = service_manager.watchdog_seconds()
        while seconds is not None:
            service_manager.notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 3)

    async def _start(self, index: int, life: int) -> asyncio.subprocess.Process:
        """A worker that has said that it is ready. Raises `StartFailed`."""
        ready_reading, ready_writing = os.pipe()
        command = (sys.executable, "-m", "kmsd", "--config", str(self.config_path), "worker")
        options = ("--index", index, "--listener", self.listener.fileno(), "--ready", ready_writing, "--life", life)
        process = await asyncio.create_subprocess_exec(
            *command,
            *map(str, options),
            pass_fds=(self.listener.fileno(), ready_writing, life),
            env={name: value for name, value in os.environ.items() if name not in service_manager.FOR_MAIN_PROCESS},
        )
        os.close(ready_writing)
        said = await _read_or_stop(ready_reading, self._stopping)
        if said:
            return process
        if process.returncode is None:
            process.terminate()
        status = await process.wait()
        if self._stopping.is_set():
            raise StartFailed(0)
        raise StartFailed(status if status > 0 else EXIT_CONFIG)

    async def _watch(self, index: int, process: asyncio.subprocess.Process, life: int) -> None:
        """Keep one worker alive until the daemon stops; then see it end."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            started = loop.time()
            stop = asyncio.create_task(self._stopping.wait())
            died = asyncio.create_task(process.wait())
            await asyncio.wait([stop, died], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if self._stopping.is_set():
                service_manager.notify("STOPPING=1")
                await _end(process)
                return
            log.error("worker died", worker=index, status=process.returncode)
            if process.returncode == EXIT_REFUSED:
                self._failed = EXIT_REFUSED
                self._stopping.set()
                return
            pause = FIRST_PAUSE if loop.time() - started > HEALTHY_SECONDS else min(pause * 2, LONGEST_PAUSE)
            await _sleep_unless(self._stopping, pause)
            if self._stopping.is_set():
                return
            try:
                process = await self._start(index, life)
            except StartFailed as exc:
                log.error("worker did not start", worker=index, status=exc.status)  # noqa: TRY400 (no traceback wanted)
                if exc.status == EXIT_REFUSED:
                    self._failed = EXIT_REFUSED
                    self._stopping.set()
                    return


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


async def _read_or_stop(descriptor: int, stopping: asyncio.Event) -> bytes:
    """What a worker writes when it is ready; nothing if it ended, took too long, or the daemon is to stop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    reading = asyncio.create_task(reader.read(16))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([reading, stop], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else b""
    finally:
        reading.cancel()
        stop.cancel()
        transport.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask a worker to finish what it has begun; insist after a while."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
