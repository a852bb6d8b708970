"""The variants that the benchmarks measure: each changes the code as it is today."""

from __future__ import annotations

from pathlib import Path

import pytest

import kmsd
from tests.bench.variant_table import VARIANTS

SOURCE = Path(kmsd.__file__).parent


@pytest.mark.parametrize("name", VARIANTS)
def test_each_text_to_replace_is_there_once(name: str) -> None:
    """A variant whose text is gone would measure the unchanged tree."""
    for file, old, new in VARIANTS[name].edits:
        assert (SOURCE / file).read_text().count(old) == 1, (file, old)
        assert old != new
