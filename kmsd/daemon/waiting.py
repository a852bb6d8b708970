"""Wait while no worker can serve: a stand-in answers, and the log and systemd say what is missing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from kmsd.daemon.worker_processes import Process, kill
from kmsd.daemon.worker_spec import NAME_BYTES, NotReady
from kmsd.linux import systemd

REMIND_SECONDS = 600.0
"""Seconds between two log events about the same reason."""
_MAX_STATUS = 300

log = structlog.get_logger()


class Waiting(msgspec.Struct):
    """Wait of the daemon for a missing component. Call `start` at each failed attempt."""

    spawn: Callable[[int], Awaitable[Process]]
    """Starts a stand-in that reads the name of the missing component from this descriptor. Raises `StartFailed`."""
    is_needed: Callable[[], bool]
    """Returns True if no worker serves or is about to."""
    _turn: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    """Held while the stand-in is started or ended."""
    _missing: int = -1
    """Memory file with the name of the missing component; kept until the process ends."""
    _stand_in: Process | None = None
    _reason: str = ""
    _since: float = 0.0
    _last_logged: float = 0.0
    _attempts: int = 0

    async def start(self, failure: NotReady) -> None:
        """Report what is missing, and start a stand-in. Raises `StartFailed` if it does not start."""
        self._log(failure)
        if self._missing < 0:
            self._missing = os.memfd_create("missing", os.MFD_CLOEXEC)
        os.pwrite(self._missing, failure.missing.encode().ljust(NAME_BYTES), 0)
        async with self._turn:
            if not self.is_needed():
                return
            if self._stand_in is None or self._stand_in.returncode is not None:
                self._stand_in = await self.spawn(self._missing)
        systemd.notify("READY=1", f"STATUS=waiting for {failure.missing}: {failure.detail[:_MAX_STATUS]}")

    def _log(self, failure: NotReady) -> None:
        """Log when the reason changes, and every `REMIND_SECONDS`."""
        now = time.monotonic()
        self._since = self._since or now
        self._attempts += 1
        reason = f"{failure.missing}: {failure.detail}"
        if reason == self._reason and now < self._last_logged + REMIND_SECONDS:
            return
        log.error(
            "waiting",
            missing=failure.missing,
            detail=failure.detail,
            attempts=self._attempts,
            consequence="calls are refused with errors that clients try again; service begins by itself",
        )
        self._reason, self._last_logged = reason, now

    @property
    def lasted(self) -> float:
        """Seconds since the wait began; 0 if the daemon is not waiting."""
        return time.monotonic() - self._since if self._since else 0.0

    async def stop_answering(self) -> None:
        """End the stand-in, if there is one. Called before a worker accepts connections, and when the daemon stops."""
        async with self._turn:
            stand_in, self._stand_in = self._stand_in, None
            if stand_in is not None:
                await kill(stand_in)

    def stop(self) -> None:
        """End the wait: a worker serves."""
        if self._since:
            systemd.notify("STATUS=workers serve again")
        self._reason, self._since, self._last_logged, self._attempts = "", 0.0, 0.0, 0
