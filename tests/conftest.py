"""Fixtures that every folder may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon, provisioned
from tests.house import House, house


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The daemon within this process; shared by a module, whose tests leave it usable."""
    with house(tmp_path_factory.mktemp("house")) as found:
        yield found


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon as a running process with two workers; shared by a module, whose tests leave it running."""
    with provisioned(tmp_path_factory.mktemp("daemon"), workers=2) as found:
        found.start()
        yield found
        # DESIGN.md §5: reads back every promised attribute of every object that the module's tests have made.
        found.cli("check")
