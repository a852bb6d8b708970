"""Patterns and queries at work on events: in short turns on the event loop, or in threads where one step may be long.

RE2 lets go of the interpreter while it matches, so that a thread holds up nobody; a turn of the loop that matches a
large expression against a large text would.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

SLICE_SECONDS = 0.002
"""After so long others have their turn."""
MAX_STEPS_ON_LOOP = 262_144
"""Characters of a message, times instructions of the regular expressions: about as long as a slice, at worst."""
PLAIN_INSTRUCTIONS = 8
"""What a pattern without regular expressions counts for."""
_THREADS = 2
_Result = TypeVar("_Result")


def is_long(length: int, instructions: int) -> bool:
    """True if a message of this length is to be looked at in a thread."""
    return length * (instructions + PLAIN_INSTRUCTIONS) > MAX_STEPS_ON_LOOP


class Evaluation:
    """The threads of one process. They are its own: a slow expression must not keep others from reading segments."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "kmsd-logs", _give_way)

    async def in_thread(self, act: Callable[[], _Result]) -> _Result:
        """Call `act`. A caller that is cancelled goes on when it has ended: both use the same objects."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, act)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait((running,))
            raise

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)


def _give_way() -> None:
    """Have the kernel prefer other threads that become ready."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
