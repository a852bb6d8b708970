"""Shared memory for metrics: created by the parent process, with one share for each worker.

A count is one aligned eight-byte store, so `kill -9` leaves either the old value or the new one. A share outlives its
worker, and the next worker that starts continues counting in it: counters never decrease while the daemon runs.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Sequence

from kmsd.linux.byte_locks import byte_is_locked, lock_byte
from kmsd.metrics.layout import Layout

SHARES = 160
"""Limit on the shares; more than there are workers at any time. A reload briefly doubles their number."""


class SlotUnavailable(OSError):
    """No metrics memory is available; the text says why."""


class SharedMetrics:
    """Read access of the parent process to all shares."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # Anonymous memory: it is never written to disk, and is freed with the last process that has it open.
        self.descriptor = os.memfd_create("kmsd-metrics", os.MFD_CLOEXEC)
        """File descriptor that workers receive."""
        length = SHARES * _bytes(layout)
        os.ftruncate(self.descriptor, length)
        self._memory = mmap.mmap(self.descriptor, length, access=mmap.ACCESS_READ)

    def shares(self) -> list[tuple[Sequence[float], bool]]:
        """Return the figures of each share ever used, each with True if its worker is alive."""
        found: list[tuple[Sequence[float], bool]] = []
        length = _bytes(self.layout)
        for number in range(SHARES):
            start = number * length
            if struct.unpack_from("d", self._memory, start)[0] == self.layout.fingerprint:
                figures = array("d", self._memory[start : start + length])
                found.append((figures, self._is_locked(number)))
        return found

    def _is_locked(self, number: int) -> bool:
        return byte_is_locked(self.descriptor, number)

    def close(self) -> None:
        """Unmap the memory and close its descriptor."""
        self._memory.close()
        os.close(self.descriptor)


class WorkerSlot:
    """Share of one worker, locked as long as the process lives: two workers never count in the same share."""

    def __init__(self, memory: int, layout: Layout) -> None:
        """Acquire the first unlocked share in the memory of this descriptor. Raises `SlotUnavailable`."""
        self.layout = layout
        length = _bytes(layout)
        try:
            # Reopen: locks belong to the open file description, which processes share if they inherit it.
            self._descriptor = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise SlotUnavailable(exc.errno, f"the memory for metrics cannot be opened: {exc.strerror}") from exc
        if os.fstat(self._descriptor).st_size != SHARES * length:
            raise _other_layout()
        number = self._acquire()
        self._memory = mmap.mmap(self._descriptor, SHARES * length)
        self.values = memoryview(self._memory)[number * length : (number + 1) * length].cast("d")
        if self.values[0] not in (0.0, layout.fingerprint):
            raise _other_layout()
        for place in layout.all_gauges:
            self.values[place] = 0.0
        self.values[layout.counters["starts"]] += 1.0
        self.values[0] = layout.fingerprint

    def _acquire(self) -> int:
        for number in range(SHARES):
            if lock_byte(self._descriptor, number):
                return number
        raise SlotUnavailable(f"{SHARES} processes count already")


def _bytes(layout: Layout) -> int:
    """Return the length of a share in bytes."""
    return 8 * layout.size


def _other_layout() -> SlotUnavailable:
    return SlotUnavailable(
        "another release, or one with other tokens, keeps its figures here: they go on when the daemon is restarted"
    )
