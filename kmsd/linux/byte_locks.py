"""Locks on single bytes of a file, owned by the open file, not by the process or thread (fcntl(2), F_OFD_SETLK).

The kernel releases them when the last descriptor of the open file is closed, however its process ends.
"""

from __future__ import annotations

import fcntl
import os
import struct


def lock_byte(descriptor: int, place: int) -> bool:
    """Lock one byte for writing. False if another open file holds it. Raises OSError."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, flock(fcntl.F_WRLCK, place, 1))
    except BlockingIOError:
        return False
    return True


def byte_is_locked(descriptor: int, place: int) -> bool:
    """True if another open file holds a lock on the byte. Raises OSError."""
    asked = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, flock(fcntl.F_WRLCK, place, 1))
    return bool(struct.unpack_from("h", asked)[0] != fcntl.F_UNLCK)


def flock(kind: int, start: int, length: int) -> bytes:
    """Encode `struct flock`: l_type, l_whence, l_start, l_len (0: up to the end), l_pid (must be 0), padding."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, start, length, 0)
