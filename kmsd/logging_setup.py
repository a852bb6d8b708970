"""Structured logs on standard error: JSON lines, with priorities for systemd's journal; colours for a terminal."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict

_MAX_PLACES = 100
_FIRST = ("event", "level", "process", "timestamp")
"""Members shown first."""
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Priority of each level (syslog(3))."""


def set_up(process: str, *, quiet: bool = False) -> None:
    """Configure logging for the named process. `quiet` is for commands that print answers: warnings and errors only."""
    render = [structlog.dev.ConsoleRenderer()] if sys.stderr.isatty() else [_in_order, _Json(journal=_is_journal())]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _show_places,
            *render,
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lines(sys.stderr))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
    )
    structlog.contextvars.bind_contextvars(process=process)


def _is_journal() -> bool:
    """True if standard error is the journal: `$JOURNAL_STREAM` has its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False  # standard error is closed, or not a file
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _in_order(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Put the event's name first and its details last: hashes and signatures fill a terminal."""
    return {name: event[name] for name in (*_FIRST, *event) if name in event}


class _Json:
    """Render a line of JSON; for the journal, prefixed with the priority of its level (sd-daemon(3))."""

    def __init__(self, *, journal: bool) -> None:
        self._journal = journal
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: object, method: str, event: EventDict) -> str:
        line = str(self._render(logger, method, event))
        return f"<{_PRIORITIES[event['level']]}>{line}" if self._journal else line


class _Lines:
    """Output of log lines. A failed write (for example, to a disk that became read-only) changes no answer."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write the text; ignore an error, for there is nowhere left to report it."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Flush the file; ignore an error."""
        with suppress(OSError):
            self._file.flush()


def _show_places(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace the traceback by the types and places of an exception and its causes, the outermost first.

    Leave out texts and variables: the text of an unexpected error may quote a plaintext, and a frame may hold one.
    """
    exc_info = event.pop("exc_info", None)
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1] if exc_info else None
    if error is not None:
        places: list[str] = []
        while error is not None and len(places) < _MAX_PLACES:
            places.append(type(error).__name__)
            frames = traceback.extract_tb(error.__traceback__)
            places += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        event["traceback"] = places
    return event
