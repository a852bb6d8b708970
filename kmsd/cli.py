"""The command line: `kmsd --config FILE COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from kmsd import __version__
from kmsd.secrecy import keep_to_oneself
from kmsd.zygote import Zygote, leave_out
from kmsd.zygote import main as main_of_zygote

MODULES = {
    "init": "init",
    "serve": "serve",
    "reload": "reload",
    "check": "check",
    "user": "users",
    "access-key": "users",
    "role": "roles",
    "explain": "explain",
    "jobs": "jobs",
    "audit": "audit",
    "open-blob": "open_blob",
    "pin": "pin",
    "backup": "backup",
    "restore": "restore",
    "migrate": "migrate",
}
"""Where each command is declared. Only the module of the one that is given is imported."""
DEFAULT_PATH = Path("/etc/kmsd/kmsd.toml")


def parser(modules: Iterable[str] = MODULES.values()) -> argparse.ArgumentParser:
    """The commands of these modules, of all if not told; each sets `run` to the coroutine that carries it out."""
    top = argparse.ArgumentParser(prog="kmsd", description="AWS KMS over a PKCS#11 token.")
    top.add_argument("--version", action="version", version=f"kmsd {__version__}")
    top.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in dict.fromkeys(modules):
        import_module(f"kmsd.commands.{name}").add_to(commands)
    return top


def command_of(arguments: list[str]) -> str | None:
    """Which command is given; None if that is not clear."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("command", nargs="?")
    try:
        command: str | None = first.parse_known_args(arguments)[0].command
    except argparse.ArgumentError:
        return None
    return command


def main(arguments: list[str] | None = None) -> int:
    """The console script; its exit status. Exits for a command line that is wrong, and after help."""
    keep_to_oneself()
    leave_out()
    given = sys.argv[1:] if arguments is None else arguments
    command = command_of(given)
    zygote = None
    if command == "serve":
        # Most of a start is reading Python: the zygote begins with it before this process goes on.
        zygote = Zygote.forked()
        if zygote is None:
            return main_of_zygote()
    try:
        module = MODULES.get(command or "")
        options = (parser() if module is None else parser([module])).parse_args(given)
        options.zygote = zygote
        status: int = import_module("kmsd.running").run(options)
        return status
    finally:
        if zygote is not None:
            zygote.end()
