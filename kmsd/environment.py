"""The environment of worker processes."""

from __future__ import annotations

from collections.abc import Mapping

from kmsd import service_manager

# Request bodies and pages of log events are 100 KB to 2 MB. The C library takes such pieces from the kernel one by one,
# or gives the end of its heap back after each: every page of them is then cleared and mapped anew (mallopt(3)). Kept,
# they cost a process at most these bytes, and a page of events a fifth less time.
# By default the C library gives each thread a heap of its own, and each keeps the most that it ever needed: five
# megabytes more once a thread has read a megabyte of the trail, and so on, thread by thread, for hours.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "8388608",
    "MALLOC_TRIM_THRESHOLD_": "33554432",
    "MALLOC_ARENA_MAX": "1",
}


def of_worker(given: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets: what was given to the main process and is not for it alone; what it sets itself stands."""
    passed = {name: value for name, value in given.items() if name not in service_manager.FOR_MAIN_PROCESS}
    return {**_MEMORY, **passed}
