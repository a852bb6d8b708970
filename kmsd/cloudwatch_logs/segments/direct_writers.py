"""Pool of direct writers: one for each write in progress, up to a limit."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from kmsd.linux.aio import AioContext, Buffer, Write

MAX_WRITERS = 16
"""Limit on direct writes in progress; beyond it, writes go through threads."""
MAX_DIRECT_WRITE_BYTES = 4_194_304
"""Limit on the bytes of one direct write; larger writes go through threads."""

log = structlog.get_logger()


class DirectWriter(msgspec.Struct, frozen=True):
    """Kernel AIO context of one write at a time, with its buffer."""

    kernel: AioContext
    buffer: Buffer = msgspec.field(default_factory=lambda: Buffer(MAX_DIRECT_WRITE_BYTES))
    """Pages become resident when first used. Writers are reused in LIFO order, so usually one buffer is resident."""


class DirectWriterPool:
    """Pool of direct writers. All methods must be called from one event loop."""

    def __init__(self) -> None:
        self._free: list[DirectWriter] = []
        self._writers: list[DirectWriter] = []
        self._refused = False
        """True if the kernel or a seccomp filter refuses asynchronous I/O."""

    def acquire(self) -> DirectWriter | None:
        """Return a free writer for `write`, to be given to `release`; None if there is none."""
        if self._free:
            return self._free.pop()
        if self._refused or len(self._writers) >= MAX_WRITERS:
            return None
        try:
            writer = DirectWriter(kernel_sync())
        except OSError as exc:
            self._refused = True
            log.info("log_direct_writes_unavailable", reason=str(exc))
            return None
        self._writers.append(writer)
        return writer

    def release(self, writer: DirectWriter) -> None:
        """Return a writer to the pool."""
        self._free.append(writer)

    async def write(self, writer: DirectWriter, write: Write) -> None:
        """Write durably from the writer's buffer. Raises OSError.

        If the caller is cancelled, the writer is released only after the write, as the kernel still reads its buffer.
        """
        done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def then(error: OSError | None) -> None:
            if done.cancelled():
                self.release(writer)
            else:
                done.set_result(error)

        writer.kernel.write(write, then)
        error = await done
        if error is not None:
            raise error

    def close(self) -> None:
        """Release the kernel's resources. No write may be in progress."""
        for writer in self._writers:
            writer.kernel.close()
        self._writers.clear()
        self._free.clear()


def kernel_sync() -> AioContext:
    """Return an AIO context on the running loop. Raises OSError if the kernel refuses."""
    return AioContext()
