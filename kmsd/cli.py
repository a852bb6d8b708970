"""The command line: `kmsd --config FILE COMMAND`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from kmsd import config as configuration
from kmsd.config import Config, ConfigError
from kmsd.exits import EXIT_CONFIG, EXIT_REFUSED
from kmsd.logs import set_up
from kmsd.ports import AuditUnavailable, PinRefused, StoreError, TokenError
from kmsd.secrecy import keep_to_oneself

Command = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]


MODULES = {
    "init": "init",
    "serve": "serve",
    "worker": "work",
    "check": "check",
    "user": "users",
    "access-key": "users",
    "role": "roles",
    "explain": "explain",
    "jobs": "jobs",
    "audit": "audit",
    "open-blob": "open_blob",
    "backup": "backup",
    "restore": "restore",
    "migrate": "migrate",
}
"""Where each command is declared. Only the module of the one that is given is imported: a worker starts twice as fast
without the others."""


def parser(modules: Iterable[str] = MODULES.values()) -> argparse.ArgumentParser:
    """The commands of these modules, of all if not told; each sets `run` to the coroutine that carries it out."""
    top = argparse.ArgumentParser(prog="kmsd", description="AWS KMS over a PKCS#11 token.")
    top.add_argument(
        "--config", type=Path, default=configuration.DEFAULT_PATH, metavar="FILE", help="default: %(default)s"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in dict.fromkeys(modules):
        import_module(f"kmsd.commands.{name}").add_to(commands)
    return top


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line. Exits for one that is wrong, and after help."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("command", nargs="?")
    try:
        command = first.parse_known_args(arguments)[0].command
    except argparse.ArgumentError:
        command = None
    module = MODULES.get(command or "")
    return (parser() if module is None else parser([module])).parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The console script; its exit status."""
    keep_to_oneself()
    options = parsed(sys.argv[1:] if arguments is None else arguments)
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
