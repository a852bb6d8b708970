"""How a command is run, and which exit status its failures have."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from kmsd import config as configuration
from kmsd.config import Config, ConfigError
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.logs import set_up
from kmsd.ports import AuditUnavailable, PinRefused, StoreError, TokenError

Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]


def run(options: argparse.Namespace) -> int:
    """Carry out what the command line asks for; the exit status."""
    set_up("cli", quiet=True)
    try:
        if hasattr(options, "offline"):
            # Commands for those who have the files and nothing else: not even a configuration.
            status: int = options.offline(options)
            return status
        config = configuration.load(options.config)
        command: Command = options.run
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(command(config, options))
    except PinRefused as exc:
        print(f"kmsd: {exc}", file=sys.stderr)
        return EXIT_REFUSED
    except (ConfigError, StoreError, TokenError, AuditUnavailable) as exc:
        print(f"kmsd: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 130
