"""Result of a reload, in a file for the process that requested it: SIGHUP has no reply.

The file is in `$RUNTIME_DIRECTORY` (systemd.exec(5)). Without that variable only the log has the result.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import structlog

FILE = "reload.json"

log = structlog.get_logger()


class Outcome(StrEnum):
    """Result of a reload."""

    DONE = "done"
    REFUSED = "refused"
    """Nothing has changed."""
    PARTIAL = "partial"
    """The new configuration is in force, but some workers still run with the previous one."""


class ReloadVerdict(msgspec.Struct, frozen=True):
    """The content of the file."""

    begun: int
    """Nanoseconds of CLOCK_BOOTTIME at which the daemon began to read the configuration."""
    outcome: Outcome
    detail: str


class Verdict:
    """Context manager around one reload; writes the file at the end."""

    def __init__(self) -> None:
        self._delivered = ReloadVerdict(now(), Outcome.REFUSED, "it did not come to an end: see the log")

    def is_(self, outcome: Outcome, detail: str) -> None:
        """Set the result of the reload."""
        self._delivered = ReloadVerdict(self._delivered.begun, outcome, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        path = verdict_path()
        if path is None:
            return
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(self._delivered))
            temporary.replace(path)
        except OSError as exc:
            log.warning("reload_verdict_not_written", path=str(path), detail=str(exc))


def now() -> int:
    """Return nanoseconds of CLOCK_BOOTTIME, which cannot be set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def verdict_path() -> Path | None:
    """Return the path to which this unit's daemon writes; None without systemd."""
    folder = os.environ.get("RUNTIME_DIRECTORY")
    return Path(folder) / FILE if folder else None


def read_verdict(path: Path, since: int) -> ReloadVerdict | None:
    """Return the result of a reload that began at `since` or later; None if there is none yet. Raises OSError."""
    try:
        verdict = msgspec.json.decode(path.read_bytes(), type=ReloadVerdict)
    except FileNotFoundError:
        return None
    return verdict if verdict.begun >= since else None
