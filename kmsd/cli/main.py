"""Command line: `kmsd [--config FILE] COMMAND`; `--config` may come anywhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from kmsd import __version__
from kmsd.daemon.fork_server import ForkServer, skip_optional_imports
from kmsd.daemon.fork_server import main as main_of_zygote
from kmsd.exit_codes import EXIT_USAGE
from kmsd.linux.process_hardening import harden_process

MODULES = {
    "init": "init",
    "join": "join",
    "node": "nodes",
    "serve": "serve",
    "reload": "reload",
    "check": "check",
    "status": "status",
    "user": "users",
    "access-key": "users",
    "role": "roles",
    "key": "keys",
    "apply": "apply",
    "export": "apply",
    "custody": "custody",
    "domain-key": "domain_keys",
    "explain": "explain",
    "jobs": "jobs",
    "audit": "audit",
    "open-blob": "open_blob",
    "pin": "pin",
    "backup": "backup",
    "restore": "restore",
    "migrate": "migrate",
}
"""Module of each command. Only the module of the given command is imported."""
DEFAULT_PATH = Path("/etc/kmsd/kmsd.toml")
EPILOG = """exit status: 0 done; 1 check: warnings, explain: denied, otherwise something was found; 2 check: failures;
64 wrong command line; 65 what was given is refused; 66 not found; 70 fault of the program; 73 exists already;
75 temporarily unavailable; 77 the token refused the PIN; 78 configuration or data need a human."""


class Parser(argparse.ArgumentParser):
    """Exits with the status of a wrong command line; argparse's own status, 2, means a failed `kmsd check`."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the error, and exit."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"kmsd: {message}\n")


def parser(modules: Iterable[str] = MODULES.values()) -> argparse.ArgumentParser:
    """Create the parser for these modules (default: all). Each command sets `run` to the coroutine that runs it."""
    top = Parser(prog="kmsd", description="AWS KMS over a PKCS#11 token.", epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"kmsd {__version__}")
    _add_config(top)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in dict.fromkeys(modules):
        import_module(f"kmsd.cli.commands.{name}").add_to(commands)
    return top


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")


def config_and_command(arguments: list[str]) -> tuple[Path, list[str]]:
    """Remove `--config FILE`, wherever it is; the rest begins with the command. Exits for a wrong one."""
    first = Parser(prog="kmsd", add_help=False, allow_abbrev=False)
    _add_config(first)
    options, rest = first.parse_known_args(arguments)
    path: Path = options.config
    return path, rest


def main(arguments: list[str] | None = None) -> int:
    """Run the console script and return its exit status. Exits for a wrong command line, and after help."""
    harden_process()
    skip_optional_imports()
    path, words = config_and_command(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else ""
    fork_server = None
    if command == "serve":
        if os.geteuid() == 0:
            _become_owner(path)
        # Importing modules is most of a start: the fork server begins with it before this process goes on.
        fork_server = ForkServer.forked()
        if fork_server is None:
            return main_of_zygote()
    try:
        module = MODULES.get(command)
        options = (parser() if module is None else parser([module])).parse_args(words, argparse.Namespace(config=path))
        options.fork_server = fork_server
        status: int = import_module("kmsd.cli.runner").run(options)
        return status
    finally:
        if fork_server is not None:
            fork_server.stop()


def _become_owner(path: Path) -> None:
    """Change user before the fork server is forked: workers must not run as root either.

    Errors are reported when the command runs.
    """
    configuration = import_module("kmsd.config.settings")
    with suppress(OSError, configuration.ConfigError):
        import_module("kmsd.cli.data_owner").become_owner_of(configuration.load(path).data_dir)
