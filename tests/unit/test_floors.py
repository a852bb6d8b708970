"""What may import what (pyproject.toml, [tool.importlinter]), the types, and the form of the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import kmsd

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(kmsd.__file__).parent


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


def test_no_circle_between_files() -> None:
    """No module imports, over however many others, itself; imports for type checkers count."""
    graph = grimp.build_graph("kmsd", cache_dir=None)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in free}
    # What is left imports, or is imported by, a circle.
    assert sorted(left) == []


def test_stores_and_tokens_are_opened_in_one_place() -> None:
    """Only adapters and the composition root name a concrete store or token: all else takes a port."""
    named = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "adapters" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.alias) and node.name in {"SqliteStore", "Pkcs11Token"}
    }
    assert named == {"app.py"}


def test_no_test_module_imports_another() -> None:
    """What tests share is in tests/support."""
    modules = [path for path in (ROOT / "tests").rglob("*.py") if "bench" not in path.parts]
    importing = {
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_")
    }
    assert importing == set()
