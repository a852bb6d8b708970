"""Making SoftHSM2 look at its folder again.

A SoftHSM process keeps an index of its token's files. It reads the folder anew when the number in the token's file
`generation` is not the one that it remembers. When it changes something itself it raises the number and remembers the
result, so that what another process has changed since the last look is passed over for good: a key that one worker
made was missing in another that had made one, too. Raising the number from outside makes the next search look.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)
_LENGTH = 8


class SoftHsmGeneration:
    """The file `generation` of one SoftHSM2 token; of any other token there is none, and nothing is done."""

    def __init__(self, manufacturer: str, serial: str, folder: Path | None) -> None:
        """`folder` holds the tokens of the host (`directories.tokendir`); a token's own bears its serial number."""
        self._file: Path | None = None
        if folder is None or not manufacturer.startswith("SoftHSM"):
            return
        own = [path for path in folder.glob("*/generation") if path.parent.name.replace("-", "").endswith(serial)]
        if len(own) == 1:
            self._file = own[0]
        else:
            log.warning("token_generation_unknown", folder=str(folder), found=len(own))

    def bump(self) -> bool:
        """Have every process search anew; whether that can be had.

        Nobody else in this process may be changing objects meanwhile: closing the file frees all locks on it.
        """
        if self._file is None:
            return False
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            log.warning("token_generation_unreadable", reason=str(error))
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            number = int.from_bytes(os.pread(descriptor, _LENGTH, 0), "big")
            os.pwrite(descriptor, ((number + 1) % 2**63 or 1).to_bytes(_LENGTH, "big"), 0)
        finally:
            os.close(descriptor)
        return True
