"""Whether anything was committed, for the price of comparing 48 bytes.

In WAL mode every process that has the database open shares the WAL index, a memory-mapped file beside it. Its
header changes with each commit, before COMMIT returns to the writer ("WAL-mode File Format", section 2.2, of
SQLite's documentation: iChange, mxFrame, salts and checksums). `PRAGMA data_version` compares the same bytes, but
takes and frees file locks to do so, which costs as much as all else that a request asks of the store.

A copy torn by a writer differs from the one before, as does any change: the answer can only be "perhaps" too often.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

HEADER_LENGTH = 48
"""Bytes of the first of the header's two copies."""
FORMAT = 3007000
"""`iVersion`, the first field, in the machine's byte order."""


class WalIndex:
    """The mapped header, for reading alone.

    POSIX frees all locks that a process has on a file as soon as it closes any descriptor of it, SQLite's among them.
    So: open this after the process's connections to the database, and close it after them. Several for one database
    share a descriptor, which the last closes.
    """

    def __init__(self, database: Path) -> None:
        """Map the index of an open database. Where there is none in the known format, `header` says so."""
        self._name = f"{database}-shm"
        self._shared = _open.get(self._name) or _Shared(self._name)
        self._shared.users += 1
        _open[self._name] = self._shared

    def header(self) -> bytes | None:
        """What to compare with an earlier answer; None: ask SQLite."""
        mapped = self._shared.mapped
        return None if mapped is None else mapped[:HEADER_LENGTH]

    def close(self) -> None:
        """Let go of the file. This user's connections have been closed before."""
        self._shared.users -= 1
        if not self._shared.users:
            _open.pop(self._name, None)
            self._shared.close()


class _Shared:
    """One descriptor and its mapping."""

    def __init__(self, name: str) -> None:
        self.users = 0
        self.mapped: mmap.mmap | None = None
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            mapped = mmap.mmap(self._descriptor, HEADER_LENGTH, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return  # another journal mode, or an empty file: the slow way is right there
        if FORMAT in (int.from_bytes(mapped[:4], "little"), int.from_bytes(mapped[:4], "big")):
            self.mapped = mapped
        else:
            mapped.close()

    def close(self) -> None:
        if self.mapped is not None:
            self.mapped.close()
        if self._descriptor is not None:
            os.close(self._descriptor)


_open: dict[str, _Shared] = {}
"""By the file's name; of this process."""
