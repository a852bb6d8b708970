"""How a command is run: with which files and credentials, as which user; and the exit status of its failures.

Whoever typed the command opens the files that it names and, as root, fetches the credentials that it reads. Then the
process becomes the owner of the data directory, and only then does it open database, trail or token.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvloop

from kmsd.cli import data_owner
from kmsd.cli.credentials import fetch_credentials
from kmsd.cli.named_files import inputs_of, outputs_of
from kmsd.cli.os_errors import in_words
from kmsd.cloudwatch_logs.ports import SegmentsError
from kmsd.config import settings as configuration
from kmsd.config.settings import Config, ConfigError
from kmsd.exit_codes import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_RESTORE_REFUSED,
    EXIT_UNAVAILABLE,
    CommandError,
)
from kmsd.logging_setup import set_up
from kmsd.ports import (
    AuditUnavailable,
    ModuleUnusable,
    PinRefused,
    StoreError,
    StoreMissing,
    StoreUnfit,
    TokenError,
    TokenUnavailable,
)
from kmsd.ports.jobs import JobFailed

log = structlog.get_logger()
Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (PinRefused, EXIT_RESTORE_REFUSED),
    (ConfigError, EXIT_CONFIG),
    (StoreMissing, EXIT_CONFIG),
    (StoreUnfit, EXIT_CONFIG),
    (ModuleUnusable, EXIT_CONFIG),
    (TokenUnavailable, EXIT_UNAVAILABLE),
    (TokenError, EXIT_CONFIG),
    (StoreError, EXIT_UNAVAILABLE),
    (AuditUnavailable, EXIT_UNAVAILABLE),
    (SegmentsError, EXIT_UNAVAILABLE),
    (JobFailed, EXIT_UNAVAILABLE),
)
"""Of errors whose text is for the operator. The first that fits decides."""
_OF_SERVE = (EXIT_RESTORE_REFUSED, EXIT_CONFIG, EXIT_INTERNAL)
"""What `kmsd serve` may end with, by which systemd decides."""


def run(options: argparse.Namespace) -> int:
    """Carry out what the command line asks for; the exit status."""
    set_up("cli", quiet=True)
    try:
        status = _run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001 (every failure has a status and a sentence)
        status, text = told(exc)
        if options.command == "serve":
            # In the log, with its priority.
            log.critical("cannot start", detail=text)
            return status if status in _OF_SERVE else EXIT_CONFIG
        print(f"kmsd: {text}", file=sys.stderr)
        if isinstance(exc, BrokenPipeError):
            # What is left in the buffer must not be tried again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(options: argparse.Namespace) -> int:
    for given in inputs_of(options):
        given.acquire()
    if hasattr(options, "offline"):
        # Commands for those who have the files and nothing else: not even a configuration.
        if getattr(options, "directory", "") is None:
            config = configuration.load(options.config)
            options.directory = config.audit_dir
            become_owner(config)
        status: int = options.offline(options)
        return status
    config = configuration.load(options.config)
    if hasattr(options, "beforehand"):
        options.beforehand(config, options)
    with _outputs(options):
        if getattr(options, "needs_pin", True):
            fetch_credentials(config.pins)
        become_owner(config)
        command: Command = options.run
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(command(config, options))


@contextmanager
def _outputs(options: argparse.Namespace) -> Iterator[None]:
    """Make the files that are to be written; those that nothing was written to are gone in the end."""
    made = list(outputs_of(options))
    try:
        for one in made:
            one.create()
        yield
    finally:
        for one in made:
            one.close()


def become_owner(config: Config) -> None:
    """As root, become the user that the data belong to. Raises `ConfigError`."""
    try:
        data_owner.become_owner_of(config.data_dir)
    except OSError as exc:
        raise ConfigError(f"root cannot become the owner of {config.data_dir}: {exc.strerror}") from exc


def told(error: Exception) -> tuple[int, str]:
    """Return the exit status of a failure, and what the operator reads."""
    if isinstance(error, CommandError):
        return error.status, str(error)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, OSError) and (worded := in_words(error)) is not None:
        return worded.status, str(worded)
    return EXIT_INTERNAL, _fault(error)


def _fault(error: Exception) -> str:
    """A fault of the program: its kind and its places, never its text, which may quote anything."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([f"internal error: {type(error).__name__}; report it with these places:", *places])
