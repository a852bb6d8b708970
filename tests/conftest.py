"""Fixtures that every folder may use; and the tiers of tests (CONTRIBUTING.md)."""

from __future__ import annotations

import compileall
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.daemon import Daemon, provisioned
from tests.support.harness import Harness, harness

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

PACKAGE = Path(__file__).parents[1] / "kmsd"
QUICK = Path(__file__).parent / "unit"
"""Tests that need no token and no daemon."""
RELEASE = {
    **dict.fromkeys(("KMSD_TEST_EVERY_CALL", "KMSD_TEST_EVERY_CODE", "KMSD_TEST_EVERY_CUT"), "1"),
    **dict.fromkeys(("KMSD_TEST_LEVELS", "KMSD_TEST_WHEEL"), "1"),
    "KMSD_TEST_KILLS": "100",
    "KMSD_TEST_LOGIN_KILLS": "300",
    "KMSD_AUDIT_KILLS": "100",
    "KMSD_BACKUP_KILLS": "24",
    "KMSD_RESTORE_KILLS": "15",
    "KMSD_TEST_RELOADS": "20",
    "KMSD_TEST_CONNECTIONS": "64",
    "KMSD_TEST_POWER_LOSSES": "20",
    "KMSD_TEST_FUZZ": "100000",
    "KMSD_TEST_AWAY_SECONDS": "30",
    "KMSD_TEST_HEAL_SECONDS": "10",
}
"""How often, and how thoroughly, tests that kill, cut, fail and fuzz do so before a release (`KMSD_TEST_SLOW`)."""
if "KMSD_TEST_SLOW" in os.environ:
    # Before the modules of tests are imported, which read them.
    for name, value in RELEASE.items():
        os.environ.setdefault(name, value)

# NSS stretches the PIN for each object that it reads or writes. For a token that lives for a second once is enough.
os.environ.setdefault("NSS_MAX_MP_PBE_ITERATION_COUNT", "1")

# The same examples in each run, but for the slow tier; a machine that is busy with other things is no failure.
settings.register_profile(
    "kmsd", deadline=None, derandomize="KMSD_TEST_SLOW" not in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kmsd")


def pytest_configure(config: pytest.Config) -> None:
    """Compile kmsd once. Where PYTHONDONTWRITEBYTECODE is set, each of its processes would do it anew."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(PACKAGE, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick tier."""
    for item in items:
        if item.path.is_relative_to(QUICK):
            item.add_marker("quick")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """With `-n`: whole files, the long ones first."""
    # Not needed, and not imported, with `-p no:xdist`.
    from tests.support.dealing import Dealer  # noqa: PLC0415

    return Dealer(config, log)


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The daemon within this process; shared by a module, whose tests leave it usable."""
    with harness(tmp_path_factory.mktemp("harness")) as found:
        yield found


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon as a running process with two workers; shared by a module, whose tests leave it running."""
    with provisioned(tmp_path_factory.mktemp("daemon"), workers=2) as found:
        found.start()
        yield found
        # Reads back every promised attribute of every object that the module's tests have made.
        found.cli("check")
