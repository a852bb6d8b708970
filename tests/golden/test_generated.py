"""Generated files are current."""

from __future__ import annotations

from tests.golden.generate import KEYS_PAGE, MATRIX, PAGE, keys_page, matrix, page


def test_operations_page() -> None:
    """docs/operations.md is what the declarations say: run scripts/operation-table."""
    assert PAGE.read_text() == page()


def test_condition_keys_page() -> None:
    """docs/condition-keys.md is what the declaration says: run scripts/operation-table."""
    assert KEYS_PAGE.read_text() == keys_page()


def test_key_state_matrix() -> None:
    """The golden matrix is what the declarations say: run scripts/operation-table, and review the difference."""
    assert MATRIX.read_text() == matrix()
