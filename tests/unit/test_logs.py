"""The daemon's log."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import structlog
from kmsd.logs import set_up
set_up("worker-0")
for number in range(1000):
    structlog.get_logger().warning("not ready", number=number)
print("answered")
"""


def test_a_log_that_cannot_be_written_changes_no_answer() -> None:
    """Its disk is full; whoever logs goes on."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"answered\n"
