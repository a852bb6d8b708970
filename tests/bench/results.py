"""Results of the benchmarks: docs/performance/results.json has those of the last published run of each row.

A row is `{"measured", "date", "machine", "options", "figures"}`. `measured` is `run` for what a benchmark wrote, and
`earlier` for figures that were copied from an earlier edition of the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "performance" / "results.json"
Results = dict[str, Any]
"""Rows by their names."""


def published() -> Results:
    """Return the rows of the last published runs."""
    found: Results = json.loads(PUBLISHED.read_text())
    return found


def count_name(count: int) -> str:
    """Return the name of the figures of so many connections: `1 connection`, `64 connections`."""
    return f"{count} connection{'s' * (count > 1)}"


def find(results: Mapping[str, Any], path: str) -> float | None:
    """Return a figure by `ROW > MEMBER > MEMBER …`, below the row's `figures`; None if it was not measured."""
    row, *members = path.split(" > ")
    at: Any = results.get(row, {}).get("figures")
    for member in members:
        if not isinstance(at, Mapping) or member not in at:
            return None
        at = at[member]
    return at if isinstance(at, int | float) else None


def merge(paths: list[Path]) -> None:
    """Replace the published rows by those in these files, and keep the others."""
    results = published()
    for path in paths:
        results |= json.loads(path.read_text())
    PUBLISHED.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
