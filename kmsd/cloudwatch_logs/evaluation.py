"""Patterns and queries at work on events: in short slices on the event loop, or in a thread where one step may be long.

RE2 lets go of the interpreter while it matches, so that a thread holds up nobody; a slice of the loop that matches a
large expression against a large text would. While a process has other callers to answer, slices keep a distance.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

SLICE_SECONDS = 0.001
"""After so long others have their turn."""
MAX_STEPS_ON_LOOP = 262_144
"""Characters of a message, times instructions of the regular expressions: about as long as two slices, at worst."""
PLAIN_INSTRUCTIONS = 8
"""Instructions that a pattern without regular expressions counts for."""
REST = 9
"""Times the length of a slice that pass until the next, in a process that is busy with others."""
MAX_REST_SECONDS = 0.5
BUSY_SHARE = 0.05
"""The share of one processor from which a process is busy with others."""
_WINDOW_SECONDS = 0.05
_Result = TypeVar("_Result")


def is_long(length: int, instructions: int) -> bool:
    """True if a message of this length is to be looked at in a thread."""
    return length * (instructions + PLAIN_INSTRUCTIONS) > MAX_STEPS_ON_LOOP


class Evaluation:
    """The slices of one process, one after the other.

    The thread is its own: a slow expression must not keep others from reading segments.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "kmsd-logs", _yield)
        self._turn = asyncio.Lock()
        self._next_at = 0.0
        self._own = 0.0
        """CPU seconds of queries and searches, since the process was last looked at."""
        self._looked_at = time.monotonic()
        self._cpu = time.process_time()
        self._busy = False

    async def slice(self, act: Callable[[], _Result], *, in_thread: bool) -> _Result:
        """Call `act` when it is its turn. A caller that is cancelled goes on when it has ended."""
        async with self._turn:
            await asyncio.sleep(max(self._next_at - time.monotonic(), 0))
            began = time.monotonic()
            try:
                return await self._in_thread(act) if in_thread else self.counted(act)
            finally:
                ended = time.monotonic()
                rest = REST * (ended - began) if self._is_busy(ended) else 0.0
                self._next_at = ended + min(rest, MAX_REST_SECONDS)

    def counted(self, act: Callable[[], _Result]) -> _Result:
        """Call `act`, and take its time for that of queries and searches."""
        began = time.thread_time()
        try:
            return act()
        finally:
            self._own += time.thread_time() - began

    def _is_busy(self, now: float) -> bool:
        """True if this process has lately had other work to do."""
        if now - self._looked_at >= _WINDOW_SECONDS:
            cpu = time.process_time()
            others = cpu - self._cpu - self._own
            self._busy = others > BUSY_SHARE * (now - self._looked_at)
            self._looked_at, self._cpu, self._own = now, cpu, 0.0
        return self._busy

    async def _in_thread(self, act: Callable[[], _Result]) -> _Result:
        running = asyncio.get_running_loop().run_in_executor(self._thread, self.counted, act)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # What `act` uses belongs to the caller again only then.
            await asyncio.wait((running,))
            raise

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


def _yield() -> None:
    """Have the kernel prefer other threads that become ready."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
