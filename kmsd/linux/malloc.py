"""The environment of worker processes, and what would be set by it if they were programs of their own."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, MutableMapping

from kmsd.linux import systemd

# Request bodies and pages of log events are 100 KB to 2 MB. The C library takes such pieces from the kernel one by one,
# or gives the end of its heap back after each: every page of them is then cleared and mapped anew (mallopt(3)). Kept,
# they cost a process at most these bytes, and a page of events a fifth less time.
# By default the C library gives each thread a heap of its own, and each keeps the most that it ever needed: five
# megabytes more once a thread has read a megabyte of the trail, and so on, thread by thread, for hours.
_HEAP = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 8_388_608),
    "MALLOC_TRIM_THRESHOLD_": (-1, 33_554_432),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""By the variable that sets the same at the start of a program: parameter (malloc.h) and value."""


def remove_main_process_variables(environment: MutableMapping[str, str]) -> None:
    """Take out what speaks to the main process alone."""
    for name in systemd.FOR_MAIN_PROCESS:
        environment.pop(name, None)


def configure_malloc(environment: Mapping[str, str]) -> None:
    """Have the C library keep what it has, as far as the operator has not said otherwise. Before there are threads."""
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is None:
        return  # a C library with another heap
    for name, (parameter, value) in _HEAP.items():
        if name not in environment:
            set_parameter(parameter, value)
