"""Ends a process whose event loop stands still, so that its parent starts another.

A fast token is called on the event loop itself. Should such a call never return, nothing on the loop can notice, and
every client of the worker waits. A thread does: calls into the module let go of the interpreter. What the process has
acknowledged is durable, so that it may end at any point.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading

import structlog

log = structlog.get_logger()

EXIT_WATCHDOG = 70
"""EX_SOFTWARE. Any status has the supervisor start another worker, unless it says that the PIN was refused."""
_CHECKS = 10
"""Looks that must all find the loop at a standstill: a process that was itself paused has then had time to go on."""


class EventLoopWatchdog:
    """Watches the running loop from `start` until `stop`."""

    def __init__(self, seconds: float) -> None:
        self._pause = seconds / _CHECKS
        self._beats = 0
        self._over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._heartbeat()
        threading.Thread(target=self._watch, name="kmsd-loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()

    def _heartbeat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(self._pause / 2, self._heartbeat)

    def _watch(self) -> None:
        seen, missed = 0, 0
        while not self._over.wait(self._pause):
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
            if missed >= _CHECKS:
                log.critical("the event loop stands still", consequence="this process ends; another is started")
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(EXIT_WATCHDOG)
