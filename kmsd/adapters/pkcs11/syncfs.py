"""Sync the folder to which a module writes its objects.

SoftHSM never calls fsync: after a power loss whole objects were empty although the store had their rows. With syncfs(2)
on the token folder before each acknowledgement, nothing was lost.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from kmsd.ports import TokenError

if TYPE_CHECKING:
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def sync_folder(folder: Path | None) -> None:
    """Flush the folder's file system to disk. Does nothing for None. Raises `TokenError`."""
    if folder is None:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TokenError(f"the token folder cannot be synced: {error}") from error
    try:
        if _libc.syncfs(descriptor):
            raise TokenError(f"syncfs of the token folder failed: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)
