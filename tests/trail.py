"""The audit trail as tests read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def trail_lines(directory: Path) -> list[bytes]:
    """Every line of every writer, each writer's in order."""
    return [line for path in sorted(directory.glob("*.trail")) for line in path.read_bytes().splitlines()]


def trail_records(directory: Path) -> list[dict[str, Any]]:
    """The audit records of all writers, without the daemon's own lines."""
    found = [json.loads(line.split(b" ", 2)[2]) for line in trail_lines(directory)]
    return [record for record in found if "kmsd" not in record]


def own_lines(directory: Path, kind: str = "") -> list[dict[str, Any]]:
    """What the trail says about itself: lines of one kind, or of all."""
    found = [json.loads(line.split(b" ", 2)[2]) for line in trail_lines(directory)]
    return [record for record in found if "kmsd" in record and record["kmsd"].startswith(kind)]
