"""Log lines of several processes on one descriptor: each whole, also where Python does not buffer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

WRITERS, LINES = 4, 500
PROGRAM = f"""
import sys, structlog
from kmsd.logging_setup import set_up
set_up(sys.argv[1])
for number in range({LINES}):
    structlog.get_logger().info("line", number=number, text="x" * 300)
"""


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    """As a daemon's parent and workers write: a reader finds every line, and nothing else."""
    path = tmp_path / "log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with path.open("ab") as log:
        writers = [
            subprocess.Popen([sys.executable, "-c", PROGRAM, f"process-{number}"], stderr=log, env=environment)
            for number in range(WRITERS)
        ]
        assert [writer.wait(60) for writer in writers] == [0] * WRITERS
    found = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {(f"process-{writer}", number) for writer in range(WRITERS) for number in range(LINES)}
    assert {(line["process"], line["number"]) for line in found} == expected
    assert len(found) == len(expected)
