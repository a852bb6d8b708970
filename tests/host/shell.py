"""A login shell of root on a terminal, in which a page's blocks are run one after the other, as they stand.

Functions, variables, umask and folder stay from one block to the next, as they do for an operator. A block ends when
its last command has. Each command that failed is told by its text and status, as `set -e` would find it.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.host.machine import LOGIN, Machine

SECONDS = 240
"""A block that takes longer has hung."""
LOOP = r"""
set -o pipefail -o errtrace
while IFS= read -r -d '' -u BLOCKS __block; do
    __failed=
    trap '__status=$?; __failed+=$BASH_COMMAND$(printf "\035")$__status$(printf "\035")' ERR
    eval "$__block" BLOCKS<&-
    trap - ERR
    printf '\036%s\036' "$__failed"
done
"""
"""Reads blocks, each ended by a zero byte, from descriptor BLOCKS; standard input is left to the blocks' commands."""
END = re.compile(rb"\x1e([^\x1e]*)\x1e")


@dataclass(frozen=True)
class Ran:
    """What became of a block."""

    output: str
    """What stood on the terminal."""
    failed: tuple[tuple[str, int], ...]
    """Each command that failed, with its status."""


class Shell:
    """One terminal. Somebody looks at it all the time: what is printed never waits."""

    def __init__(self, command: Sequence[str]) -> None:
        self._terminal, theirs = pty.openpty()
        settings = termios.tcgetattr(theirs)
        settings[1] &= ~termios.OPOST  # a line ends with a line feed alone
        settings[3] &= ~termios.ECHO  # what is typed is not among what is printed
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        termios.tcsetwinsize(theirs, (50, 300))
        blocks, self._blocks = os.pipe()
        environment = [f"{name}={value}" for name, value in LOGIN.items()]
        loop = LOOP.replace("BLOCKS", str(blocks))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command, "env", "-i", *environment, "bash", "-l", "-c", loop],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            pass_fds=(blocks,),
        )
        os.close(theirs)
        os.close(blocks)
        self._printed = b""
        self._ended = False
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        # EIO: nobody has the terminal open any more.
        with suppress(OSError):
            while heard := os.read(self._terminal, 65536):
                with self._changed:
                    self._printed += heard
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def printed(self) -> str:
        """All that has stood on the terminal."""
        with self._changed:
            return self._printed.decode(errors="replace")

    def run(self, block: str, typed: Sequence[tuple[str, str]] = ()) -> Ran:
        """Run a block to its end.

        `typed` has pairs of a prompt and what is typed there. At an empty prompt it is typed at once.
        """
        with self._changed:
            begun = seen = len(self._printed)
        self.begin(block)
        waiting, end = list(typed), time.monotonic() + SECONDS
        with self._changed:
            while not (found := END.search(self._printed, begun)):
                assert not self._ended, f"the shell has ended:\n{block}\n{self._printed[begun:].decode()}"
                assert time.monotonic() < end, f"no end within {SECONDS} s:\n{block}\n{self._printed[begun:].decode()}"
                while waiting and (at := self._printed.find(waiting[0][0].encode(), seen)) >= 0:
                    prompt, text = waiting.pop(0)
                    seen = at + len(prompt)
                    os.write(self._terminal, text.encode())
                self._changed.wait(1)
            output = self._printed[begun : found.start()].decode()
        assert not waiting, f"it never asked for {waiting[0][0]!r}:\n{output}"
        return Ran(output, _failures(found[1].decode()))

    def begin(self, block: str) -> None:
        """Start a block that ends by itself, or never."""
        os.write(self._blocks, block.encode() + b"\0")

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        os.write(self._terminal, b"\x03")

    def close(self) -> None:
        """Hang up."""
        os.close(self._blocks)
        self.process.send_signal(signal.SIGHUP)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._listener.join(10)
        os.close(self._terminal)


def _failures(text: str) -> tuple[tuple[str, int], ...]:
    words = text.split("\x1d")
    found = list(zip(words[0::2], map(int, words[1::2]), strict=False))
    # `eval` has the status of its last command. Alone it tells of a block that is no shell script.
    inner = tuple(pair for pair in found if not pair[0].startswith('eval "$__block"'))
    return inner or tuple(("(the block as a whole)", status) for _, status in found)


@contextmanager
def login(machine: Machine, folder: str = "/root") -> Iterator[Shell]:
    """A login of root; `folder` is where root goes first."""
    shell = Shell(machine.entered(folder))
    try:
        yield shell
    finally:
        shell.close()
