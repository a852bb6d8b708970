"""What a process may ask the kernel about itself: prctl(2), which the C library has and Python has not."""

from __future__ import annotations

import ctypes
import os

_SET_DUMPABLE = 4
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_MAX_NAME_LENGTH = 15
"""PR_SET_NAME: "up to 16 bytes long, including the terminating null byte"."""


def keep_memory_private() -> None:
    """Let no other process of the same user read this one's memory or trace it; a fork inherits it. Raises OSError."""
    _prctl("PR_SET_DUMPABLE", _SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Be the parent of every descendant that loses its own. Raises OSError."""
    _prctl("PR_SET_CHILD_SUBREAPER", _SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """What `ps -o comm` and `top` call this process. Raises OSError."""
    _prctl("PR_SET_NAME", _SET_NAME, ctypes.c_char_p(name.encode()[:_MAX_NAME_LENGTH]))


def _prctl(name: str, option: int, value: object) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({name}): {os.strerror(number)}")
