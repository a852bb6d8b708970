"""The daemon's log."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kmsd

FULL = """
import structlog
from kmsd.logging_setup import set_up
set_up("worker-0")
for number in range(1000):
    structlog.get_logger().warning("not ready", number=number)
print("answered")
"""


def test_a_log_that_cannot_be_written_changes_no_answer() -> None:
    """Its disk is full; whoever logs goes on."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        done = subprocess.run([sys.executable, "-c", FULL], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"answered\n"


PROGRAM = """
import os, structlog
from kmsd.logging_setup import set_up
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino + %d}"
set_up("daemon")
log = structlog.get_logger()
for write in (log.critical, log.error, log.warning, log.info):
    write("something happened", signature="x", number=1)
try:
    raise KeyError
except KeyError:
    log.exception("failed")
"""


@pytest.mark.parametrize("is_journal", [True, False])
def test_lines_have_priorities_in_the_journal(*, is_journal: bool) -> None:
    """`journalctl -p err` shows errors; elsewhere a line is JSON alone. The event comes first."""
    program = PROGRAM % (0 if is_journal else 1)
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 5
    for line, priority in zip(lines, (2, 3, 4, 6, 3), strict=True):
        prefix = f"<{priority}>" if is_journal else ""
        assert line.startswith(f'{prefix}{{"event": "')
        assert list(json.loads(line.removeprefix(prefix)))[:4] == ["event", "level", "process", "timestamp"]


def test_events_have_names() -> None:
    """An event is a fixed name with fields: operators search for it. The anchor of the audit trail keeps its text."""
    named = re.compile(r"[a-z][a-z0-9_]*")
    found = {
        f"{path.name}: {event.value}"
        for path in Path(kmsd.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args
        if isinstance(call.func.value, ast.Name) and call.func.value.id == "log"
        if isinstance(event := call.args[0], ast.Constant) and not named.fullmatch(str(event.value))
    }
    assert found == {"checkpointer.py: audit checkpoint"}
