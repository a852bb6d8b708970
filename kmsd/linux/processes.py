"""Processes of this host, as /proc shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Yield id and name of each process that this one has started, directly or not, and that has not ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        try:
            name = Path(f"/proc/{child}/comm").read_text().strip()
        except OSError:
            continue
        yield child, name
        yield from descendants(child)


def started_at(pid: int) -> float | None:
    """Return the Unix time at which a process was started, in whole seconds; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return None
    return float(int(booted.split()[1]) + int(fields[19]) // os.sysconf("SC_CLK_TCK"))
