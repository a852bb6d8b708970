"""What may import what (pyproject.toml, [tool.importlinter]), and the form of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command", ["lint-imports --no-cache", "ruff check --no-cache .", "ruff format --check --no-cache ."]
)
def test_nothing_to_object_to(command: str) -> None:
    """Linters and the contracts between packages pass."""
    tool, *arguments = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(tool), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
