"""The uptime of the host: unlike the time of day nobody can set it."""

from __future__ import annotations

import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which start of the host this is.

    Empty where it is hidden (ProcSubset=pid): a shorter uptime then tells another start, and one that is longer already
    is judged as if the host had run on, which holds more and never less.
    """
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def uptime() -> float:
    """Seconds since the host was started, suspension included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
