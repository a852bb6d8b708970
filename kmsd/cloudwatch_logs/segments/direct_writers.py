"""Ways to the disk that writers share: one for each that is writing at the moment, up to a bound."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from kmsd.linux.aio import AioContext, Buffer, Write

MAX_WRITERS = 16
"""Writes under way at once; whoever finds none free writes on a thread."""
LANE_BYTES = 4_194_304
"""What one write may have; more is for a thread."""

log = structlog.get_logger()


class DirectWriter(msgspec.Struct, frozen=True):
    """The kernel's writes of one writer at a time, and the memory that they are made from."""

    kernel: AioContext
    buffer: Buffer = msgspec.field(default_factory=lambda: Buffer(LANE_BYTES))
    """Takes real memory where it has been used. The lane that was used last goes first, so mostly one has."""


class DirectWriterPool:
    """All methods belong to one event loop."""

    def __init__(self) -> None:
        self._free: list[DirectWriter] = []
        self._made: list[DirectWriter] = []
        self._refused = False
        """The kernel, or a filter of system calls, does not let us."""

    def acquire(self) -> DirectWriter | None:
        """One for `write` or `give_back`; None: there is none."""
        if self._free:
            return self._free.pop()
        if self._refused or len(self._made) >= MAX_WRITERS:
            return None
        try:
            made = DirectWriter(kernel_sync())
        except OSError as exc:
            self._refused = True
            log.info("log segments are written on threads", reason=str(exc))
            return None
        self._made.append(made)
        return made

    def release(self, lane: DirectWriter) -> None:
        """It is free again."""
        self._free.append(lane)

    async def write(self, lane: DirectWriter, write: Write) -> None:
        """Write durably from the lane's buffer. Raises OSError.

        A lane whose caller is cancelled stays taken: the kernel goes on reading its buffer.
        """
        done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def then(error: OSError | None) -> None:
            if done.cancelled():
                self.release(lane)
            else:
                done.set_result(error)

        lane.kernel.write(write, then)
        error = await done
        if error is not None:
            raise error

    def close(self) -> None:
        """Let go of the kernel's resources; nothing may be under way."""
        for lane in self._made:
            lane.kernel.close()
        self._made.clear()
        self._free.clear()


def kernel_sync() -> AioContext:
    """On the running loop. Raises OSError if the kernel refuses."""
    return AioContext()
