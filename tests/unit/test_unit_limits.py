"""The limits of the systemd unit are those that the daemon's own limits ask for."""

from __future__ import annotations

import re
from pathlib import Path

from kmsd.cloudwatch_logs import opened_frames
from kmsd.cloudwatch_logs.regex import MAX_MEMORY_BYTES
from kmsd.cloudwatch_logs.work_budget import MAX_PROCESS_BYTES
from kmsd.config.sections import Config

UNIT = (Path(__file__).parents[2] / "systemd" / "kmsd.service").read_text()
MIB = 1_048_576
AT_WORK = 130 * MIB
"""Of a worker: measured after 400,000 requests (docs/reliability.md)."""
EXPRESSIONS = 128
"""That the module re2 keeps."""


def directive(name: str) -> str:
    """Its value; it is there once."""
    [found] = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(found)


def size(text: str) -> int:
    """Bytes of a value such as 1536M."""
    return int(text[:-1]) * {"M": MIB, "G": 1024 * MIB}[text[-1]]


def test_memory_suffices_for_the_workers_and_is_bounded() -> None:
    """All that workers may hold at once is within MemoryHigh, and MemoryMax leaves room for those of a reload."""
    workers = Config.__struct_defaults__[Config.__struct_fields__.index("workers") - len(Config.__struct_fields__)]
    each = AT_WORK + MAX_PROCESS_BYTES + opened_frames.MAX_BYTES + EXPRESSIONS * MAX_MEMORY_BYTES
    assert workers == 2
    assert workers * each <= size(directive("MemoryHigh")) <= size(directive("MemoryMax")) * 3 // 4
    assert workers * (each + AT_WORK) <= size(directive("MemoryMax"))
    assert each <= 512 * MIB


def test_a_lack_of_memory_ends_no_more_than_a_worker() -> None:
    """The others go on; if it is the main process that ends, the unit is started again."""
    assert directive("OOMPolicy") == "continue"
    assert directive("Restart") == "on-failure"
    assert 200 <= int(directive("TasksMax")) <= 4_096
