"""What workers keep and do not keep of the main process's environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PIECE = """
import os
from kmsd.linux.malloc import configure_malloc
configure_malloc(os.environ)
piece = bytes(4_000_000)
heap = next(line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
first, last = (int(part, 16) for part in heap.split("-"))
print(first <= id(piece) < last)
"""


@pytest.mark.parametrize(("given", "kept"), [({}, "True"), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, "False")])
def test_large_pieces_are_kept(given: dict[str, str], kept: str) -> None:
    """They come from the heap, and not from the kernel one by one; unless the operator has said otherwise."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PIECE]
    done = subprocess.run(command, env={**environment, **given}, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == kept


def test_what_is_for_the_main_process_is_kept_from_others() -> None:
    """A program that a worker's module starts does not speak to systemd in the daemon's name."""
    program = """
import os
from kmsd.linux.malloc import remove_main_process_variables
remove_main_process_variables(os.environ)
os.execvp("env", ["env"])
"""
    given = {**os.environ, "NOTIFY_SOCKET": "/run/x", "LISTEN_FDS": "1", "MARK": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, check=True, text=True)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "MARK" in names
    assert names.isdisjoint({"NOTIFY_SOCKET", "LISTEN_FDS"})
