"""Structured logs on standard error: JSON lines for the journal, colours for a terminal."""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(process: str, *, quiet: bool = False) -> None:
    """Name the process. `quiet`, for commands that answer in words of their own: warnings and errors only."""
    render = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
    )
    structlog.contextvars.bind_contextvars(process=process)
