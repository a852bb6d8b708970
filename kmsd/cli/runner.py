"""Running a command: its files, credentials and user, and the exit statuses of its failures.

The invoking user opens the files that the command names and, as root, fetches its credentials. Then the process
changes to the owner of the data directory. Only after that does it open database, trail or token.
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
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.exit_codes import (
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_PIN_REFUSED,
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
    TextRefused,
    TokenError,
    TokenUnavailable,
)
from kmsd.ports.jobs import JobFailed

log = structlog.get_logger()
Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (PinRefused, EXIT_PIN_REFUSED),
    (ConfigError, EXIT_CONFIG),
    (StoreMissing, EXIT_CONFIG),
    (StoreUnfit, EXIT_CONFIG),
    (TextRefused, EXIT_DATA),
    (ModuleUnusable, EXIT_CONFIG),
    (TokenUnavailable, EXIT_UNAVAILABLE),
    (TokenError, EXIT_CONFIG),
    (StoreError, EXIT_UNAVAILABLE),
    (AuditUnavailable, EXIT_UNAVAILABLE),
    (SegmentsError, EXIT_UNAVAILABLE),
    (JobFailed, EXIT_UNAVAILABLE),
)
"""Exit statuses of errors whose text is for the operator. The first match decides."""
_OF_SERVE = (EXIT_PIN_REFUSED, EXIT_CONFIG, EXIT_INTERNAL)
"""Exit statuses that `kmsd serve` may end with; systemd decides by them."""


def run(options: argparse.Namespace) -> int:
    """Run the command that the command line names. Return its exit status."""
    set_up("cli", quiet=True)
    try:
        status = _run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001 (every failure has a status and a sentence)
        status, text = explain_failure(exc)
        if options.command == "serve":
            # Log it, with its priority.
            log.critical("start_failed", detail=text)
            return status if status in _OF_SERVE else EXIT_CONFIG
        print(f"kmsd: {text}", file=sys.stderr)
        if isinstance(exc, BrokenPipeError):
            # Prevent another attempt to write the rest of the buffer when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(options: argparse.Namespace) -> int:
    for file in inputs_of(options):
        file.acquire()
    if hasattr(options, "offline"):
        # Commands for users who have the files and nothing else: not even a configuration.
        if getattr(options, "directories", None) == []:
            config = configuration.load(options.config)
            options.directories = [config.audit_dir]
            become_owner(config)
        status: int = options.offline(options)
        return status
    config = configuration.load(options.config)
    if hasattr(options, "beforehand"):
        options.beforehand(config, options)
    with _outputs(options):
        pins = config.pins if getattr(options, "needs_pin", True) else []
        fetch_credentials([*pins, *config.store_secrets])
        become_owner(config)
        command: Command = options.run
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(command(config, options))


@contextmanager
def _outputs(options: argparse.Namespace) -> Iterator[None]:
    """Create the output files. Those that were not written to are removed at the end."""
    files = list(outputs_of(options))
    try:
        for one in files:
            one.create()
        yield
    finally:
        for one in files:
            one.close()


def become_owner(config: Config) -> None:
    """Change to the user that owns the data, if run by root. Raises `ConfigError`."""
    try:
        data_owner.become_owner_of(config.data_dir)
    except OSError as exc:
        raise ConfigError(f"root cannot become the owner of {config.data_dir}: {exc.strerror}") from exc


def explain_failure(error: Exception) -> tuple[int, str]:
    """Return the exit status of a failure, and the text for the operator."""
    if isinstance(error, CommandError):
        return error.status, str(error)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, OSError) and (worded := in_words(error)) is not None:
        return worded.status, str(worded)
    return EXIT_INTERNAL, _fault(error)


def _fault(error: Exception) -> str:
    """Describe a fault of the program: its type and places, never its text, which may quote anything."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([f"internal error: {type(error).__name__}; report it with these places:", *places])
