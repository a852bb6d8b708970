"""What may import what (pyproject.toml, [tool.importlinter]), the types, and the form of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        "lint-imports --no-cache",
        "ruff check --no-cache .",
        "ruff format --check --no-cache .",
        "mypy --cache-dir=/dev/null",
    ],
)
def test_nothing_to_object_to(command: str) -> None:
    """Linters, the contracts between packages, and the type checker pass. No cache is read, and none is left."""
    tool, *arguments = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(tool), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
