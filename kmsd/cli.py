"""The command line: `kmsd --config FILE COMMAND`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from kmsd import config as configuration
from kmsd.commands import audit, backup, check, explain, init, jobs, migrate, open_blob, restore, roles, serve, users
from kmsd.config import Config, ConfigError
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.logs import set_up
from kmsd.ports import AuditUnavailable, PinRefused, StoreError, TokenError

Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]


def parser() -> argparse.ArgumentParser:
    """All commands; each sets `run` to the coroutine that carries it out."""
    top = argparse.ArgumentParser(prog="kmsd", description="AWS KMS over a PKCS#11 token.")
    top.add_argument(
        "--config", type=Path, default=configuration.DEFAULT_PATH, metavar="FILE", help="default: %(default)s"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (init, serve, check, users, roles, explain, jobs, audit, open_blob, backup, restore, migrate):
        module.add_to(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """The console script; its exit status."""
    options = parser().parse_args(arguments)
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
