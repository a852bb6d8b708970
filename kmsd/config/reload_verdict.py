"""What became of a reload, told to whoever asked for it: SIGHUP has no answer, so the daemon writes a file.

The file is in `$RUNTIME_DIRECTORY` (systemd.exec(5)). Without it nobody is told but the log.
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
    """How a reload ended."""

    DONE = "done"
    REFUSED = "refused"
    """Nothing has changed."""
    PARTIAL = "partial"
    """The new configuration is in force, and some workers still run with the one before."""


class ReloadVerdict(msgspec.Struct, frozen=True):
    """The content of the file."""

    begun: int
    """Nanoseconds of CLOCK_BOOTTIME at which the daemon began to read the configuration."""
    outcome: Outcome
    detail: str


class Verdict:
    """Around one reload; writes the file at the end."""

    def __init__(self) -> None:
        self._delivered = ReloadVerdict(now(), Outcome.REFUSED, "it did not come to an end: see the log")

    def is_(self, outcome: Outcome, detail: str) -> None:
        """How the reload ended."""
        self._delivered = ReloadVerdict(self._delivered.begun, outcome, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        path = verdict_path()
        if path is None:
            return
        made = path.with_suffix(".new")
        try:
            made.write_bytes(msgspec.json.encode(self._delivered))
            made.replace(path)
        except OSError as exc:
            log.warning("the verdict on a reload cannot be written", path=str(path), detail=str(exc))


def now() -> int:
    """Nanoseconds of CLOCK_BOOTTIME, which nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def verdict_path() -> Path | None:
    """Where the daemon of this unit writes; None without systemd."""
    folder = os.environ.get("RUNTIME_DIRECTORY")
    return Path(folder) / FILE if folder else None


def read_verdict(path: Path, since: int) -> ReloadVerdict | None:
    """The verdict on a reload that began at `since` or later; None: there is none yet. Raises OSError."""
    try:
        told = msgspec.json.decode(path.read_bytes(), type=ReloadVerdict)
    except FileNotFoundError:
        return None
    return told if told.begun >= since else None
