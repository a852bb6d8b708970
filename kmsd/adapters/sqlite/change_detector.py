"""Detect commits to the database by comparing 48 bytes.

In WAL mode every process that has the database open shares the WAL index, a memory-mapped file beside it. Its header
changes with each commit, before COMMIT returns to the writer (SQLite's "WAL-mode File Format", section 2.2: iChange,
mxFrame, salts and checksums). `PRAGMA data_version` compares the same bytes, but acquires and releases file locks. That
costs as much as everything else that a request needs from the store.

A copy torn by a concurrent writer differs from the previous one, so the only possible error is a false positive.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

HEADER_LENGTH = 48
"""Bytes of the first of the header's two copies."""
FORMAT = 3007000
"""`iVersion`, the first field, in the machine's byte order."""


class ChangeDetector:
    """Read-only mapping of the header.

    POSIX releases all locks of a process on a file, SQLite's included, when the process closes any descriptor of it.
    So open this after the process's connections to the database, and close it after them. All instances for one
    database share a descriptor, which the last one closes.
    """

    def __init__(self, database: Path) -> None:
        """Map the index of an open database."""
        self._name = f"{database}-shm"
        self._shared = _open.get(self._name) or _Shared(self._name)
        self._shared.users += 1
        _open[self._name] = self._shared
        self.mapped = self._shared.mapped
        """The bytes to compare with an earlier copy; None: there is no index in the known format, so ask SQLite."""

    def close(self) -> None:
        """Close the file. Close the connections of this process first."""
        self._shared.users -= 1
        if not self._shared.users:
            _open.pop(self._name, None)
            self._shared.close()


class _Shared:
    """Descriptor and mapping, shared by all users of one database in the process."""

    def __init__(self, name: str) -> None:
        self.users = 0
        self.mapped: mmap.mmap | None = None
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            mapped = mmap.mmap(self._descriptor, HEADER_LENGTH, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return  # another journal mode, or an empty file: SQLite is asked instead
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
"""Open mappings of this process, by file name."""
