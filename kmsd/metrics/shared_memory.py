"""The memory that the daemon's processes count in: made by the parent, a share for each worker.

A count is a store of eight aligned bytes, so `kill -9` leaves either the old figure or the new one. A share outlives
its worker, and the next worker that starts goes on counting in it: counters never go back while the daemon lives.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Sequence

from kmsd.linux.byte_locks import byte_is_locked, lock_byte
from kmsd.metrics.layout import LAYOUT

SHARES = 160
"""More than there are workers at any time: while a configuration is taken over, there are twice as many."""
BYTES = 8 * LAYOUT.size


class SlotUnavailable(OSError):
    """There is no memory to count in; the text says why."""


class SharedMetrics:
    """The parent's view of all shares."""

    def __init__(self) -> None:
        # Anonymous: nothing of it ever touches a disk, and it goes with the last process that has it open.
        self.descriptor = os.memfd_create("kmsd-metrics", os.MFD_CLOEXEC)
        """What workers are given."""
        os.ftruncate(self.descriptor, SHARES * BYTES)
        self._memory = mmap.mmap(self.descriptor, SHARES * BYTES, access=mmap.ACCESS_READ)

    def shares(self) -> list[tuple[Sequence[float], bool]]:
        """The figures of each share that was ever used, and whether its worker lives."""
        found: list[tuple[Sequence[float], bool]] = []
        for number in range(SHARES):
            start = number * BYTES
            if struct.unpack_from("d", self._memory, start)[0] == LAYOUT.fingerprint:
                figures = array("d", self._memory[start : start + BYTES])
                found.append((figures, self._is_locked(number)))
        return found

    def _is_locked(self, number: int) -> bool:
        return byte_is_locked(self.descriptor, number)

    def close(self) -> None:
        """Let go."""
        self._memory.close()
        os.close(self.descriptor)


class WorkerSlot:
    """A worker's part. It is locked as long as the process lives: no two count in one."""

    def __init__(self, memory: int) -> None:
        """Take the first share that nobody holds, in the memory of this descriptor. Raises `SlotUnavailable`."""
        try:
            # Opened anew: locks belong to the open file, and processes share the one that they inherit.
            self._descriptor = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise SlotUnavailable(exc.errno, f"the memory for metrics cannot be opened: {exc.strerror}") from exc
        if os.fstat(self._descriptor).st_size != SHARES * BYTES:
            raise _other_release()
        number = self._acquire()
        self._memory = mmap.mmap(self._descriptor, SHARES * BYTES)
        self.values = memoryview(self._memory)[number * BYTES : (number + 1) * BYTES].cast("d")
        if self.values[0] not in (0.0, LAYOUT.fingerprint):
            raise _other_release()
        for place in LAYOUT.gauges.values():
            self.values[place] = 0.0
        self.values[LAYOUT.counters["starts"]] += 1.0
        self.values[0] = LAYOUT.fingerprint

    def _acquire(self) -> int:
        for number in range(SHARES):
            if lock_byte(self._descriptor, number):
                return number
        raise SlotUnavailable(f"{SHARES} processes count already")


def _other_release() -> SlotUnavailable:
    return SlotUnavailable("another release keeps its figures here: they go on when the daemon is started anew")
