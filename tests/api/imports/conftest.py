"""What the tests of imports share: a daemon with an import token, and its administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.harness import Harness, harness
from tests.support.key_import import refusals_at_once


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[Harness]:
    """With an import token, as `scripts/run` makes it."""
    folder = tmp_path_factory.mktemp("harness")
    with harness(folder, import_token=True, custody=custody) as found, refusals_at_once():
        yield found


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()
