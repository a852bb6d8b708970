"""docs/tests.md: which tests call which operation (scripts/operation-table)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from kmsd.services import OPERATIONS

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "tests.md"
FOLDERS = {
    "api": "each operation through the real pipeline, by boto3 over a socket, with SoftHSM2 and SQLite",
    "unit": "pure rules: policies, signatures, formats, the log service's languages; linters, types and layers",
    "contract": "the promises of a port, on every adapter",
    "properties": "random cases against an oracle, hostile input, secrets that must appear nowhere",
    "faults": "calls that fail before and after they worked, kills, power losses, full disks, hanging tokens",
    "golden": "formats of every earlier release, and pages that are generated",
    "e2e": "the daemon as processes: commands, reload, TLS, backup, stock clients",
    "host": "a booted Debian with systemd, and every command of the pages",
    "packaging": "the Debian package, the wheel and the source distribution",
}
"""The folders that are shown, in the order of the page."""


def method_of(operation: str) -> str:
    """The name of an operation as boto3 has it: `generate_data_key`."""
    return re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", operation).lower()


def calls() -> Mapping[str, set[str]]:
    """The files that call an operation, by its boto3 name."""
    wanted = {method_of(operation.name) for operation in OPERATIONS}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for path in sorted((TESTS / folder).rglob("test_*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = (
                    node.attr
                    if isinstance(node, ast.Attribute)
                    else node.value
                    if isinstance(node, ast.Constant)
                    else None
                )
                if isinstance(name, str) and name in wanted:
                    found[name].add(str(path.relative_to(TESTS)))
    return found


def page() -> str:
    """Return docs/tests.md."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Tests"
    yield ""
    yield "Which tests to run after a change. CONTRIBUTING.md has the three tiers; this page is generated."
    yield ""
    yield "| folder | holds |"
    yield "|---|---|"
    for folder, text in FOLDERS.items():
        yield f"| `tests/{folder}` | {text} |"
    yield ""
    yield "## Operations and their tests"
    yield ""
    yield "Files that call the operation. Tests of all operations at once (states, errors, names) are not listed."
    yield ""
    yield "| operation | tests |"
    yield "|---|---|"
    found = calls()
    for operation in sorted(OPERATIONS, key=lambda one: (one.service.scope, one.name)):
        files = ", ".join(f"`{file}`" for file in sorted(found[method_of(operation.name)], key=_order)[:8])
        yield f"| {operation.service.scope}:{operation.name} | {files} |"
    yield ""


def _order(file: str) -> tuple[int, str]:
    return list(FOLDERS).index(file.split("/", maxsplit=1)[0]), file
