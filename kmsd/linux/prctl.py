"""prctl(2) calls that Python does not wrap."""

from __future__ import annotations

import ctypes
import os

_SET_DUMPABLE = 4
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_MAX_NAME_LENGTH = 15
"""Bytes of a process name (PR_SET_NAME: "up to 16 bytes long, including the terminating null byte")."""


def keep_memory_private() -> None:
    """Keep other processes of the same user from reading or tracing this one. Forks inherit it. Raises OSError."""
    _prctl("PR_SET_DUMPABLE", _SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends. Raises OSError."""
    _prctl("PR_SET_CHILD_SUBREAPER", _SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Set the name that `ps -o comm` and `top` show for this process. Raises OSError."""
    _prctl("PR_SET_NAME", _SET_NAME, ctypes.c_char_p(name.encode()[:_MAX_NAME_LENGTH]))


def _prctl(name: str, option: int, value: object) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({name}): {os.strerror(number)}")
