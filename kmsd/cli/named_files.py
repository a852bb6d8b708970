"""Files that the command line names. The invoking user opens them, before the process changes to the daemon's user.

An input file is opened early and stays open, so that its owner, its folder or a pipe's other end may be root's. An
output file for a secret is created first: an existing name or a full disk stops the command in time.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from kmsd.exit_codes import EXIT_UNAVAILABLE, CommandError, ExistsAlready, InputRefused, NotFound, TryLater, WrongUsage

STANDARD_INPUT = "-"
_SECRET_BYTES = 4096
"""Bytes allocated on disk before the access key is created."""


class InputFile:
    """An argument that names a file to read; `-` is standard input. It can be read once."""

    def __init__(self, text: str) -> None:
        """Remember the name (argparse calls this)."""
        self.name = "standard input" if text == STANDARD_INPUT else text
        self._path = None if text == STANDARD_INPUT else Path(text)
        self._file: BinaryIO | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def stem(self) -> str:
        """Return the file's name without folder and suffix; `policy` for standard input."""
        return self._path.stem if self._path is not None else "policy"

    @property
    def is_standard_input(self) -> bool:
        """True for `-`."""
        return self._path is None

    @property
    def size(self) -> int | None:
        """Return the size in bytes; None if only a pipe's other end knows it. Raises `NotFound`."""
        found = os.fstat(self.acquire().fileno())
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def acquire(self) -> BinaryIO:
        """Open the file unless it is open. Raises `NotFound`."""
        if self._file is None:
            try:
                self._file = sys.stdin.buffer if self._path is None else self._path.open("rb")
            except OSError as exc:
                raise NotFound(f"{self.name} cannot be read: {exc.strerror}") from exc
        return self._file

    def open(self, _mode: Literal["rb"], /) -> BinaryIO:
        """Open the file, like `pathlib.Path.open`, for code that takes either. Raises `NotFound`."""
        return self.acquire()

    def read_bytes(self) -> bytes:
        """Return the content. Raises `NotFound`."""
        with self.acquire() as file:
            try:
                return file.read()
            except OSError as exc:
                raise NotFound(f"{self.name} cannot be read: {exc.strerror}") from exc

    def read_text(self) -> str:
        """Return the content. Raises `NotFound`, `InputRefused` if it is not text."""
        try:
            return self.read_bytes().decode()
        except UnicodeDecodeError as exc:
            raise InputRefused(f"{self.name} is not text in UTF-8") from exc


class SecretFile:
    """An argument that names a file to create, readable by its owner only."""

    def __init__(self, text: str) -> None:
        """Remember the name (argparse calls this)."""
        self.path = Path(text)
        self._descriptor = -1
        self._keep = -1
        self._guard = -1

    def __str__(self) -> str:
        return str(self.path)

    def create(self) -> None:
        """Create the file, with room for a secret. A second process removes it unless it is kept.

        The writing process may have become another user by then, who cannot remove it. Raises `ExistsAlready`,
        `CommandError`.
        """
        if str(self.path) == STANDARD_INPUT:
            raise WrongUsage("--output names a file; without it the access key is printed")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
        except FileExistsError as exc:
            raise ExistsAlready(f"{self.path} exists already, and is not overwritten") from exc
        except OSError as exc:
            raise CommandError(f"{self.path} cannot be made: {exc.strerror}") from exc
        verdict, self._keep = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:
            os.close(self._keep)
            _remove_unless_kept(self.path, verdict)
        os.close(verdict)
        try:
            os.posix_fallocate(self._descriptor, 0, _SECRET_BYTES)
        except OSError as exc:
            self.close()
            raise TryLater(f"{self.path} cannot be written: {exc.strerror}") from exc

    def write(self, text: str) -> None:
        """Write the whole text and keep the file; durable on return. Raises OSError."""
        content = text.encode()
        with os.fdopen(self._descriptor, "wb", closefd=False) as file:
            file.write(content)
            file.truncate(len(content))
            file.flush()
            os.fsync(file.fileno())
        os.write(self._keep, b"k")

    def close(self) -> None:
        """Finish. On return the file exists if it was written, and is removed if not."""
        if self._guard < 0:
            return
        os.close(self._descriptor)
        os.close(self._keep)
        _, status = os.waitpid(self._guard, 0)
        self._guard = -1
        if status != 0:
            print(f"kmsd: {self.path} is empty and could not be removed", file=sys.stderr)  # noqa: T201


def _remove_unless_kept(path: Path, verdict: int) -> None:
    """Wait for a byte on the pipe, or for its end when the writing process ends. Then end this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    status = 0
    try:
        if not os.read(verdict, 1):
            path.unlink(missing_ok=True)
    except OSError:
        status = EXIT_UNAVAILABLE
    os._exit(status)


def inputs_of(options: argparse.Namespace) -> Iterator[InputFile]:
    """Yield the input files that a command line names. Raises `WrongUsage` if two are standard input."""
    found = [
        one
        for value in vars(options).values()
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, InputFile)
    ]
    if sum(one.is_standard_input for one in found) > 1:
        raise WrongUsage("standard input can be named once only")
    yield from found


def outputs_of(options: argparse.Namespace) -> Iterator[SecretFile]:
    """Yield the files to create that a command line names."""
    yield from (value for value in vars(options).values() if isinstance(value, SecretFile))
