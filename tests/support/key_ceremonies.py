"""Key ceremonies by the commands of an operator, for tests."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.polling import until
from tests.support.tokens import SO_PIN


def so_pin_file(daemon: Daemon, pin: str = SO_PIN) -> str:
    """A file with the security officer's PIN, as an editor leaves it."""
    path = daemon.folder / "so-pin"
    path.write_text(f"{pin}\n")
    return str(path)


def act(daemon: Daemon, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """A key ceremony."""
    return daemon.cli("domain-key", *arguments, "--so-pin-file", so_pin_file(daemon), check=check)


def listed(daemon: Daemon) -> dict[str, tuple[str, str, str]]:
    """State, materials and presence of each domain key."""
    lines = [line.split("\t") for line in daemon.cli("domain-key", "list").stdout.decode().splitlines() if "\t" in line]
    return {line[0]: (line[2], line[5], line[6]) for line in lines}


class Accepting:
    """`kmsd domain-key accept` as a process, with pipes in the place of a terminal."""

    def __init__(self, daemon: Daemon, folder: Path, *options: str) -> None:
        self.request, self.transfer = folder / "request.json", folder / "transfer.json"
        command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "domain-key", "accept"]
        command += ["--so-pin-file", so_pin_file(daemon), "--request", str(self.request)]
        self.output = (folder / "accept.log").open("wb")
        self.process = subprocess.Popen(
            [*command, "--transfer", str(self.transfer), *options],
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=self.output,
        )
        until(lambda: self.code() != "" or self.process.poll() is not None, otherwise=self.log)

    def log(self) -> str:
        """What it has printed."""
        return Path(self.output.name).read_text()

    def code(self) -> str:
        """The code of the request, once it is shown."""
        found = re.search(r"Confirmation code of the request: ([0-9A-Z-]{24})\n", self.log())
        return found[1] if found else ""

    def type(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def shows(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so often."""
        until(lambda: self.log().count(text) >= times, otherwise=self.log)


@contextmanager
def accepting(daemon: Daemon, folder: Path | None = None, *options: str) -> Iterator[Accepting]:
    """`accept` with its files in `folder`, or in the daemon's; ended at the end of the block."""
    found = Accepting(daemon, folder or daemon.folder, *options)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        assert found.process.stdin is not None
        found.process.stdin.close()
        found.output.close()


def transfer_code(printed: bytes) -> str:
    """The code that `transfer` shows."""
    found = re.search(rb"Confirmation code of the transfer: ([0-9A-Z-]{24})\n", printed)
    assert found is not None, printed
    return found[1].decode()


ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes standard input the terminal of the process: getpass opens /dev/tty."""


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None) -> None:
        self._master, slave = pty.openpty()
        wrapped = [sys.executable, "-c", ON_TERMINAL, *command]
        self.process = subprocess.Popen(
            wrapped, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=cwd, env=env
        )
        os.close(slave)
        self.text = ""
        """What it has shown."""
        self._seen = 0

    def _read(self) -> bool:
        """Read what it shows next; False at its end."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            found = os.read(self._master, 4096)
        except OSError:  # the other end is closed
            return False
        self.text += found.decode().replace("\r\n", "\n")
        return bool(found)

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait until it shows a text after the one that was expected last. What it showed before that."""
        end = time.monotonic() + seconds
        while text not in self.text[self._seen :]:
            assert self._read(), self.text
            assert time.monotonic() < end, self.text
        before = self.text[self._seen :].partition(text)[0]
        self._seen += len(before) + len(text)
        return before

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, f"{line}\n".encode())

    def end(self) -> int:
        """Wait until it ends; its exit status."""
        while self._read():
            pass
        return self.process.wait(60)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A process on a terminal, ended at the end of the block."""
    found = Terminal(command, cwd, env)
    try:
        yield found
    finally:
        found.close()
