"""Generated files are current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmsd.config.sections import Config
from kmsd.config.settings import parse
from tests.bench import performance_page
from tests.bench.results import published
from tests.golden import configuration, manual, tests_page
from tests.golden.generate import KEYS_PAGE, MATRIX, PAGE, keys_page, matrix, page


def test_operations_page() -> None:
    """docs/operations.md is what the declarations say: run scripts/operation-table."""
    assert PAGE.read_text() == page()


def test_condition_keys_page() -> None:
    """docs/condition-keys.md is what the declaration says: run scripts/operation-table."""
    assert KEYS_PAGE.read_text() == keys_page()


def test_map_of_tests() -> None:
    """docs/tests.md names the tests of each operation: run scripts/operation-table."""
    assert tests_page.PAGE.read_text() == tests_page.page()


def test_performance_page() -> None:
    """docs/performance.md has the published results, and the charts show them: run scripts/performance-page."""
    results = published()
    assert performance_page.PAGE.read_text() == performance_page.page(results)
    assert performance_page.stale_charts(results) == []


def test_key_state_matrix() -> None:
    """The golden matrix is what the declarations say: run scripts/operation-table, and review the difference."""
    assert MATRIX.read_text() == matrix()


@pytest.mark.parametrize("path", configuration.documents(), ids=lambda path: path.name)
def test_reference_of_the_configuration(path: Path) -> None:
    """The page and the examples are what kmsd/config/sections.py says: run scripts/configuration-reference."""
    assert path.read_text() == configuration.documents()[path]


@pytest.mark.parametrize("path", manual.documents(), ids=lambda path: path.name)
def test_man_pages_and_completions(path: Path) -> None:
    """They are what the parser of the command line and the settings say: run scripts/manual."""
    assert path.read_text() == manual.documents()[path]


@pytest.mark.parametrize("path", [configuration.EXAMPLE, configuration.TRIAL], ids=lambda path: path.name)
def test_the_examples_are_configurations(path: Path) -> None:
    """Each can be loaded as it stands, and with every setting in force; then all have their defaults or samples."""
    text = path.read_text()
    as_it_stands = parse(text, path)
    everything = parse(re.sub(r"^# (?=\w+ = |\[)", "", text, flags=re.MULTILINE), path)
    in_force = configuration.IN_FORCE if path == configuration.EXAMPLE else configuration.IN_FORCE_FOR_A_TRIAL
    for table in configuration.tables():
        for setting in table.settings:
            sample = setting.name in configuration.SAMPLES or table.name in {"import_token", "tokens", "web_identity"}
            if setting.name not in in_force and not sample:
                assert value_of(everything, setting.name) == value_of(as_it_stands, setting.name) == setting.default


def value_of(config: Config, name: str) -> object:
    """Return the value of a setting such as `import.stock`."""
    found: object = config
    for part in name.split("."):
        found = getattr(found, "import_" if part == "import" else part)
    return found
