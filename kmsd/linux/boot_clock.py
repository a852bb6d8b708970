"""Uptime and boot id of the host. Unlike the time of day, no process can set them."""

from __future__ import annotations

import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the identifier of the host's current boot.

    Empty where it is hidden (ProcSubset=pid). Then a shorter uptime reveals a reboot. A longer uptime is treated as if
    the host had not rebooted, which can only suspend more jobs.
    """
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def uptime() -> float:
    """Return the seconds since the host booted, suspension included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
