"""The path of one warm Encrypt: how long it is, and that docs/architecture.md says what each file of it is for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.call_trace import calls_of_encrypt, files_of
from tests.support.daemon import STORE
from tests.support.harness import harness

pytestmark = pytest.mark.skipif(STORE != "sqlite", reason="a database server is asked for every request")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
MOST_CALLS, MOST_FILES = 90, 35
"""They may only fall. Decision 0061 has the reasons."""


@pytest.fixture(scope="module", name="calls")
def _calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with harness(tmp_path_factory.mktemp("path"), custody="object") as own:
        yield calls_of_encrypt(own)


def test_the_path_grows_no_longer(calls: list[str]) -> None:
    """From the parser to the durable record and the written answer."""
    assert len(calls) <= MOST_CALLS, "\n".join(calls)
    assert len(files_of(calls)) <= MOST_FILES, sorted(files_of(calls))


def test_the_page_names_each_file_of_the_path(calls: list[str]) -> None:
    """With the number of its calls, and no other file."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert {file: int(count) for file, count in rows} == Counter(call.partition(":")[0] for call in calls)
