"""Structured logs on standard error: JSON lines for the journal, colours for a terminal."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict

_MOST_PLACES = 100


def set_up(process: str, *, quiet: bool = False) -> None:
    """Name the process. `quiet`, for commands that answer in words of their own: warnings and errors only."""
    render = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _show_places,
            render,
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lines(sys.stderr))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
    )
    structlog.contextvars.bind_contextvars(process=process)


class _Lines:
    """Where log lines go. One that cannot be written, to a disk that has become read-only, say, changes no answer."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """There is nowhere left to tell an error of this."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """As `write`."""
        with suppress(OSError):
            self._file.flush()


def _show_places(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Instead of a traceback: the types and places of an exception and its causes, the outermost first.

    Neither its text nor its variables: what nobody foresaw may quote a plaintext, and a frame may hold one.
    """
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        places: list[str] = []
        while error is not None and len(places) < _MOST_PLACES:
            places.append(type(error).__name__)
            frames = traceback.extract_tb(error.__traceback__)
            places += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        event["traceback"] = places
    return event
