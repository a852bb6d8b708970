"""Twice the input is about twice the work, for everything that reads what strangers write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MAX = 2.5
"""Times the work for twice the input; the square would be 4."""


@pytest.mark.timeout(300)
def test_work_grows_with_the_input() -> None:
    """Patterns, queries, events, policies, signatures, contexts, names, bodies, forms, blobs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.doubling"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    assert len(found) > 700
    assert {name: growth for name, growth in found.items() if growth > MAX} == {}
    assert sum(growth > 0 for growth in found.values()) > 40, "nothing was large enough to be measured"
