"""Scheduling of pattern and query evaluation: short slices on the event loop, a thread where one step may be long.

RE2 releases the GIL while it matches, so a thread blocks no other work. Matching a large expression against a large
text on the event loop would block it. While a process also serves other calls, slices are spaced out.
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
"""Limit on the seconds of a slice, after which other work gets a turn."""
MAX_STEPS_ON_LOOP = 262_144
"""Limit on message characters times regex instructions for evaluation on the loop: two slices at worst."""
PLAIN_INSTRUCTIONS = 8
"""Instructions counted for a pattern without regular expressions."""
REST = 9
"""Pause before the next slice in a busy process, as a multiple of the last slice's length."""
MAX_REST_SECONDS = 0.5
BUSY_SHARE = 0.05
"""Share of one processor used by other work from which a process counts as busy."""
_WINDOW_SECONDS = 0.05
_Result = TypeVar("_Result")


def is_long(length: int, instructions: int) -> bool:
    """True if a message of this length must be evaluated in a thread."""
    return length * (instructions + PLAIN_INSTRUCTIONS) > MAX_STEPS_ON_LOOP


class Evaluation:
    """Evaluator of one process; slices run one after the other.

    It has its own thread, so that a slow expression does not keep other calls from reading segments.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "kmsd-logs", _yield)
        self._turn = asyncio.Lock()
        self._next_at = 0.0
        self._own = 0.0
        """CPU seconds used by queries and searches since the last measurement."""
        self._looked_at = time.monotonic()
        self._cpu = time.process_time()
        self._busy = False

    async def slice(self, act: Callable[[], _Result], *, in_thread: bool) -> _Result:
        """Call `act` when it is its turn. A cancelled caller resumes only after `act` has ended."""
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
        """Call `act` and add its CPU time to that of queries and searches."""
        began = time.thread_time()
        try:
            return act()
        finally:
            self._own += time.thread_time() - began

    def _is_busy(self, now: float) -> bool:
        """True if this process recently had other work to do."""
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
            # `act` still uses the caller's objects until it returns, so wait before reporting the cancellation.
            await asyncio.wait((running,))
            raise

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False)


def _yield() -> None:
    """Lower the scheduling priority of this thread (SCHED_BATCH), so that the kernel prefers others that wake up."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
