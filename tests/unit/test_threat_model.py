"""docs/threat-model.md names tests; they exist, and each claim in a table has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text()
NAME = re.compile(r"`((?:unit|api|contract|properties|faults|golden|e2e)(?:/\w+)?/test_\w+\.py)(?:::(\w+))?`")
ATTACKERS = (
    "A network client without credentials",
    "A client with credentials",
    "Another principal",
    "A local user",
    "The host's administrator",
    "A thief of the disk",
    "A thief of the HSM",
    "A malicious or broken PKCS#11 module",
    "A reader of the logs",
)


def functions(path: Path) -> set[str]:
    """Names of the tests in a file."""
    found = ast.parse(path.read_text()).body
    return {node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed or removed takes its claim with it, or its page."""
    named = NAME.findall(PAGE)
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (TESTS / file).is_file() or (test and test not in functions(TESTS / file))
    ]
    assert missing == []


def test_every_row_names_a_test() -> None:
    """No claim in a table without what shows it."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) > 30
    assert [row for row in rows if not NAME.search(row)] == []


def test_every_attacker_has_a_section() -> None:
    """None is left out."""
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert [who for who in ATTACKERS if not any(section.startswith(who) for section in sections)] == []
