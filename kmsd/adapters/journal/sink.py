"""The audit trail as files: one append-only file for each writing process, one JSON record a line."""

from __future__ import annotations

import os
from pathlib import Path

from kmsd.adapters.journal.group_commit import GroupCommitFile
from kmsd.ports import AuditUnavailable


class JournalSink:
    """Implements `kmsd.ports.AuditSink`."""

    def __init__(self, directory: Path, writer: str) -> None:
        """Open the file of `writer` (`worker-0`, `cli`). Raises `AuditUnavailable`."""
        self._directory = directory
        try:
            self._file = GroupCommitFile(directory / f"{writer}.jsonl")
        except OSError as exc:
            raise AuditUnavailable(f"{directory}: {exc.strerror}") from exc

    async def append(self, record: bytes) -> None:
        await self._file.append(record)

    async def check(self) -> None:
        if not os.access(self._directory, os.W_OK) or os.statvfs(self._directory).f_bavail == 0:
            raise AuditUnavailable(f"{self._directory} cannot be written")

    async def close(self) -> None:
        await self._file.close()
