"""Asynchronous fdatasync and durable writes: the kernel does them, and notifies the event loop.

A thread that returns from fdatasync must acquire the interpreter lock again. On a busy loop that costs more than the
sync, and takes as long. Linux's asynchronous I/O has an operation for it (IOCB_CMD_FDSYNC, io_submit(2)). It reports by
an eventfd(2), which the loop watches like any socket. The C library has no functions for it, so the system calls are
made by number.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int16, c_int64, c_long, c_uint16, c_uint32, c_uint64, pointer
from typing import NamedTuple

import msgspec

_PWRITE = 1
_FDSYNC = 3
_RESFD = 1
_ONE = c_long(1)
_DEPTH = 4
"""Operations that one context may run at once; only one ever runs."""
BLOCK_SIZE = 4096
"""Bytes. O_DIRECT writes begin and end at multiples of the disk's block size, which is at most this."""


def round_up(length: int) -> int:
    """Round up to a multiple of `BLOCK_SIZE`."""
    return -(-length // BLOCK_SIZE) * BLOCK_SIZE


class SyscallNumbers(NamedTuple):
    """Numbers of the four system calls on one architecture."""

    setup: int
    destroy: int
    getevents: int
    submit: int


SYSTEM_CALLS = {"x86_64": SyscallNumbers(206, 207, 208, 209), "aarch64": SyscallNumbers(0, 1, 4, 2)}


class _Control(Structure):
    """struct iocb of linux/aio_abi.h, for little-endian machines."""

    _fields_ = (
        ("data", c_uint64),
        ("key", c_uint32),
        ("rw_flags", c_uint32),
        ("opcode", c_uint16),
        ("priority", c_int16),
        ("descriptor", c_uint32),
        ("buffer", c_uint64),
        ("length", c_uint64),
        ("offset", c_int64),
        ("reserved", c_uint64),
        ("flags", c_uint32),
        ("event_descriptor", c_uint32),
    )


class _Event(Structure):
    """struct io_event."""

    _fields_ = (("data", c_uint64), ("control", c_uint64), ("result", c_int64), ("result2", c_int64))


class Write(msgspec.Struct, frozen=True):
    """Write of `length` bytes at `address` to `offset` of `descriptor`. All three are multiples of the block size."""

    descriptor: int
    address: int
    length: int
    offset: int


class Buffer:
    """Page-aligned memory, as O_DIRECT writes need it. It must outlive them."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


class AioContext:
    """Context for one sync or write at a time, on one event loop.

    Raises OSError if the kernel or a seccomp filter refuses.
    """

    def __init__(self) -> None:
        numbers = SYSTEM_CALLS.get(platform.machine())
        if numbers is None:
            raise OSError(errno.ENOSYS, "no asynchronous sync is known for this machine")
        self._numbers = numbers
        self._submit, self._getevents = c_long(numbers.submit), c_long(numbers.getevents)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = c_long
        self._context = c_uint64(0)
        if self._call(c_long(numbers.setup), _DEPTH, byref(self._context)) < 0:
            raise _last_error()
        self._event_descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._control = _Control(flags=_RESFD, event_descriptor=self._event_descriptor)
        self._controls = pointer(self._control)
        self._controls_reference = byref(self._controls)
        self._event = _Event()
        self._event_reference = byref(self._event)
        self._no_timeout = POINTER(_Event)()
        self._then: Callable[[OSError | None], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._event_descriptor, self._done)

    def submit(self, descriptor: int, then: Callable[[OSError | None], None]) -> None:
        """Start to sync the data of a file. `then` is called on the loop, with the error or None.

        Raises OSError if the operation did not start; `then` is not called in that case. The previous operation must
        have ended.
        """
        self._start(_FDSYNC, Write(descriptor, 0, 0, 0), then)

    def write(self, write: Write, then: Callable[[OSError | None], None]) -> None:
        """Start a write to a descriptor opened with O_DIRECT and O_DSYNC. Otherwise like `submit`."""
        self._start(_PWRITE, write, then)

    def _start(self, opcode: int, write: Write, then: Callable[[OSError | None], None]) -> None:
        if self._then is not None:
            raise OSError(errno.EBUSY, "a sync is under way")
        control = self._control
        control.opcode, control.descriptor, control.buffer = opcode, write.descriptor, write.address
        control.length, control.offset = write.length, write.offset
        if self._call(self._submit, self._context, _ONE, self._controls_reference) < 0:
            raise _last_error()
        self._then = then

    def _done(self) -> None:
        os.eventfd_read(self._event_descriptor)
        event = self._event
        if self._call(self._getevents, self._context, _ONE, _ONE, self._event_reference, self._no_timeout) < 0:
            raise _last_error()
        then, self._then = self._then, None
        if then is None:
            return
        if event.result < 0:
            then(OSError(-event.result, os.strerror(-event.result)))
        elif event.result != self._control.length:
            then(OSError(errno.EIO, "not all was written"))
        else:
            then(None)

    def close(self) -> None:
        """Release the kernel's resources. Waits for a running operation, whose `then` is not called."""
        self._loop.remove_reader(self._event_descriptor)
        if self._call(c_long(self._numbers.destroy), self._context) < 0:
            raise _last_error()
        os.close(self._event_descriptor)


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
