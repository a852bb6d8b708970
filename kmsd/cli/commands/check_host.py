"""`kmsd check`: the host's clock and random number generator."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, WARN, Finding

CLOCK = "clock"
RTC = Path("/sys/class/rtc/rtc0/since_epoch")
RTC_SECONDS = 60
"""Maximum difference from the hardware clock: it drifts by seconds a day, and is set every 11 minutes."""
QUARTER = 900
"""Seconds in a quarter of an hour: time zones differ by multiples of it."""
_TIME_ERROR = 5
"""adjtimex(2): "The system clock is not synchronized to a reliable server"."""


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "sec", "usec", "tick")),
        *((name, ctypes.c_long) for name in ("ppsfreq", "jitter")),
        ("shift", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("stabil", "jitcnt", "calcnt", "errcnt", "stbcnt")),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def findings() -> Iterator[Finding]:
    """Yield the findings on clock and entropy."""
    yield synchronised()
    yield against_rtc(RTC, time.time())
    yield _entropy()


def synchronised() -> Finding:
    """Check that the kernel's clock is synchronised: signatures are valid for 15 minutes, and deletions fall due."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        # A sandbox may forbid the call (ProtectClock= allows this use, which only reads).
        return Finding(NOTE, CLOCK, f"the kernel does not say whether it is synchronised: {_why(ctypes.get_errno())}")
    if state == _TIME_ERROR:
        text = "the clock is not synchronised: no time service has reported to the kernel that it is"
        return Finding(WARN, CLOCK, text)
    return Finding(OK, CLOCK, f"the clock is synchronised, within {timex.maxerror / 1e6:.3f} s")


def against_rtc(rtc: Path, now: float) -> Finding:
    """Compare with the hardware clock, which runs on its own: a difference means that one of the two was set."""
    try:
        hardware = int(rtc.read_text())
    except (OSError, ValueError):
        return Finding(NOTE, CLOCK, "no hardware clock to compare with")
    ahead = now - hardware
    if abs(ahead) <= RTC_SECONDS:
        return Finding(OK, CLOCK, f"clock and hardware clock agree within {abs(ahead):.0f} s")
    if abs(ahead) < 15 * 3600 and abs(ahead - QUARTER * round(ahead / QUARTER)) <= RTC_SECONDS:
        return Finding(NOTE, CLOCK, "the hardware clock seems to keep local time; let it keep UTC")
    return Finding(WARN, CLOCK, f"the clock is {ahead:+.0f} s from the hardware clock: one of them was set")


def _entropy() -> Finding:
    try:
        os.getrandom(32, os.GRND_NONBLOCK)
    except BlockingIOError:
        return Finding(FAIL, "entropy", "the kernel's random number generator has not been seeded yet")
    return Finding(OK, "entropy", "the kernel's random number generator is seeded")


def _why(number: int) -> str:
    return os.strerror(number)
