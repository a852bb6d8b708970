"""Input of people in a key ceremony: the security officer's PIN, and confirmation codes."""

from __future__ import annotations

import argparse
import getpass
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmsd.cli.named_files import InputFile
from kmsd.custody.domain_key_transfer import is_code
from kmsd.exit_codes import InputRefused, WrongUsage


def add_so_pin(command: argparse.ArgumentParser) -> None:
    """Add the option for the security officer's PIN."""
    command.add_argument(
        "--so-pin-file",
        type=InputFile,
        metavar="FILE",
        help="read the security officer's PIN from this file, `-` for standard input; without it, the terminal asks",
    )


def so_pin(options: argparse.Namespace) -> bytes:
    """Return the security officer's PIN, from the file or from the terminal. Raises `CommandError`."""
    file: InputFile | None = options.so_pin_file
    pin = _from_terminal().encode() if file is None else file.read_bytes().rstrip(b"\r\n")
    if not pin:
        raise InputRefused("the security officer's PIN is empty")
    return pin


def _from_terminal() -> str:
    try:
        with Path("/dev/tty").open("rb"):
            pass
    except OSError as exc:
        raise WrongUsage("there is no terminal to ask for the security officer's PIN: name --so-pin-file") from exc
    with _interruptible():
        return getpass.getpass("PIN of the security officer (SO PIN): ")


def typed_code(question: str) -> str:
    """Return a line that a person types. Raises `InputRefused` at the end of standard input."""
    print(question, end=" ", file=sys.stderr, flush=True)
    with _interruptible():
        line = sys.stdin.readline()
    if not line:
        raise InputRefused("no code was typed: nothing is done without it")
    return line


def is_confirmed(typed: str, code: str, of: str) -> bool:
    """True if the typed code is this one; else say so."""
    if is_code(typed, code):
        return True
    print(f"kmsd: that is not the code of {of}", file=sys.stderr)
    return False


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a call that blocks the event loop."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
