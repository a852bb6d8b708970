"""What the tests of imports share: a daemon with an import token, and its administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.harness import House, house
from tests.support.key_import import refusals_at_once


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """With an import token, as `scripts/run` makes it."""
    with house(tmp_path_factory.mktemp("house"), import_token=True) as found, refusals_at_once():
        yield found


@pytest.fixture(name="kms")
def _kms(house: House) -> Any:
    return house.client()
