"""Watchdog that ends a process whose event loop is blocked, so that its parent starts another.

A fast token is called on the event loop itself. If such a call never returns, nothing on the loop can notice it, and
every client of the worker waits. A thread notices it, since calls into the module release the interpreter lock. All
that the process has acknowledged is durable, so it may end at any point.
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
"""EX_SOFTWARE. The supervisor starts another worker after any status except the one for a refused PIN."""
_CHECKS = 10
"""Consecutive checks that must find the loop blocked. A process that was itself paused then has time to continue."""


class EventLoopWatchdog:
    """Watchdog of the running loop, from `start` until `stop`."""

    def __init__(self, seconds: float) -> None:
        self._pause = seconds / _CHECKS
        self._beats = 0
        self._over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the heartbeat and the watching thread."""
        self._heartbeat()
        threading.Thread(target=self._watch, name="kmsd-loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
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
                log.critical("event_loop_blocked", consequence="this process ends; another is started")
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(EXIT_WATCHDOG)
