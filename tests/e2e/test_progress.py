"""Long commands show their progress on a terminal, and nothing of it anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, provisioned


@pytest.fixture(name="own", scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with provisioned(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


def at_a_terminal(daemon: Daemon, *arguments: str) -> tuple[str, str]:
    """What a command writes to standard output, which is a pipe, and to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:
            pass  # the terminal's other side was closed: EIO
        os.close(ours)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait() == 0, seen
    return printed.decode(), seen.decode()


def test_on_a_terminal(own: Daemon, tmp_path: Path) -> None:
    """How much, how fast and for how long; the line is erased at the end. Standard output has the result alone."""
    file, plan = tmp_path / "kmsd.backup", tmp_path / "users.toml"
    plan.write_text('[[users]]\nname = "bob"\n')
    for arguments, what, unit in (
        (("audit", "verify"), "verifying", "B/s"),
        (("backup", str(file)), "copying", "B/s"),
        (("restore", "--check", str(file)), "unpacking", "B/s"),
        (("apply", str(plan)), "applying", " changes/s"),
        (("jobs", "run", "rewrap"), "rewrap", " done"),
    ):
        printed, seen = at_a_terminal(own, *arguments)
        assert what in seen, (arguments, seen)
        assert unit in seen, (arguments, seen)
        assert "\x1b[3" not in seen  # no colours
        assert seen.rpartition("\r")[0].rpartition("\r")[2].strip() == "", seen
        assert unit not in printed


def test_in_a_pipe(own: Daemon) -> None:
    """Nothing."""
    done = own.cli("audit", "verify")
    assert done.stderr == b""
    assert done.stdout.endswith(b" s\n")
