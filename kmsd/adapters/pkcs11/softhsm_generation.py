"""Force SoftHSM2 to reread its token folder.

A SoftHSM process keeps an index of its token's files. It rereads the folder when the number in the token's file
`generation` differs from the one it remembers. When it changes an object itself, it increments the number and remembers
the result. It then never sees what another process changed since its last reading: a key that one worker created was
missing in another worker that had created one too. Incrementing the number from outside makes the next search reread.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

from kmsd.adapters.pkcs11.softhsm import is_softhsm, token_folders

log = structlog.get_logger(__name__)
_LENGTH = 8


class SoftHsmGeneration:
    """File `generation` of one SoftHSM2 token. Other tokens have none; `bump` then does nothing."""

    def __init__(self, manufacturer: str, serial: str, folder: Path | None) -> None:
        """`folder` holds all tokens of the host (`directories.tokendir`); each subfolder's name ends with a serial."""
        self._file: Path | None = None
        if folder is None or not is_softhsm(manufacturer):
            return
        own = token_folders(folder, serial)
        if len(own) == 1:
            self._file = own[0] / "generation"
        else:
            log.warning("token_generation_unknown", folder=str(folder), found=len(own))

    def bump(self) -> bool:
        """Make the next search of every process reread the folder. False if that is not possible.

        No other thread of this process may change objects meanwhile: closing the file releases all the process's locks
        on it.
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
