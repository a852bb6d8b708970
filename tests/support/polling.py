"""Waiting for what comes about by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def until(holds: Callable[[], bool], seconds: float = 60.0, *, otherwise: Callable[[], str] | None = None) -> None:
    """Ask again and again until it holds; AssertionError with the text of `otherwise` after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never held" if otherwise is None else otherwise()
        time.sleep(0.01)


async def until_async(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """As `until`, on an event loop that goes on meanwhile."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never held"
        await asyncio.sleep(0.005)
