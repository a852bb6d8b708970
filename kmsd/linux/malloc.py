"""malloc settings and environment variables of worker processes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, MutableMapping

from kmsd.linux import systemd

# Request bodies and pages of log events are 100 KB to 2 MB. The C library maps each such block separately, or returns
# the end of its heap to the kernel after each: every page is then cleared and mapped again (mallopt(3)). Keeping them
# costs a process at most these bytes, and saves a fifth of the time for a page of events.
# By default the C library gives each thread a heap of its own, which keeps the most that it ever needed: five megabytes
# more once a thread has read a megabyte of the trail, and so on, thread by thread, for hours.
_HEAP = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 8_388_608),
    "MALLOC_TRIM_THRESHOLD_": (-1, 33_554_432),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Parameter (malloc.h) and value, by the environment variable that sets the same at the start of a program."""


def remove_main_process_variables(environment: MutableMapping[str, str]) -> None:
    """Remove systemd's variables that are for the main process only."""
    for name in systemd.FOR_MAIN_PROCESS:
        environment.pop(name, None)


def configure_malloc(environment: Mapping[str, str]) -> None:
    """Apply `_HEAP`, except parameters that the operator has set in the environment. Call before threads start."""
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is None:
        return  # a C library without mallopt
    for name, (parameter, value) in _HEAP.items():
        if name not in environment:
            set_parameter(parameter, value)
