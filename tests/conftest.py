"""Fixtures that every folder may use; and the tiers of tests (CONTRIBUTING.md)."""

from __future__ import annotations

import compileall
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.daemon import CUSTODY, STORE, Daemon, provisioned
from tests.support.harness import Harness, harness

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

PACKAGE = Path(__file__).parents[1] / "kmsd"
QUICK = Path(__file__).parent / "unit"
"""Tests that need no token and no daemon."""
RELEASE = {
    **dict.fromkeys(("KMSD_TEST_EVERY_CALL", "KMSD_TEST_EVERY_CODE", "KMSD_TEST_EVERY_CUT"), "1"),
    **dict.fromkeys(("KMSD_TEST_EVERY_CUSTODY", "KMSD_TEST_LEVELS", "KMSD_TEST_WHEEL"), "1"),
    **dict.fromkeys(("KMSD_TEST_DEBIAN_13", "KMSD_TEST_IMAGE", "KMSD_TEST_CLIENTS"), "1"),
    "KMSD_TEST_KILLS": "100",
    "KMSD_TEST_REWRAP_KILLS": "60",
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
    "KMSD_TEST_CLUSTER_ROUNDS": "10",
}
"""How often, and how thoroughly, tests that kill, cut, fail and fuzz do so before a release (`KMSD_TEST_SLOW`)."""
API = Path(__file__).parent / "api"
"""Tests that all run in both kinds of key custody before a release."""
IN_BOTH_CUSTODIES = frozenset(
    {
        *("test_encrypt", "test_key_agreement", "test_key_kind_matrix", "test_macs", "test_message_counts"),
        *("test_rsa_encryption", "test_signatures", "test_time"),
        "test_import::test_by_every_algorithm_and_back_again",
        "test_import_kinds::test_only_the_same_material_comes_back",
        "test_material_expiry::test_the_earliest_expiry_counts",
        "test_several_materials::test_a_key_needs_all_its_materials",
        "test_several_materials::test_new_materials_at_once",
        "test_several_materials::test_pending_deletion",
    }
)
"""Modules, and tests of modules, that do so in the default tier: what becomes of key material, and each kind of use."""
ON_SQLITE_ALONE = frozenset(
    {
        # These look at the files of log segments.
        "test_logs_events::test_many_segments_read_as_one",
        "test_logs_groups::test_retention_takes_old_frames_out_of_young_segments",
        "test_logs_groups::test_no_event_text_in_the_data_directory",
        # Whether a row is cached or absent: the latter takes a round trip to the server.
        "test_concealment::test_the_refusal_of_an_unknown_key_takes_the_same_work",
        # PostgreSQL judges leases by the server's clock, which a test does not set.
        "test_time::test_one_process_holds_the_lease",
        # These change or read rows of SQLite's file by themselves.
        "test_message_counts",
        "test_material_expiry::test_pending_material_stays_until_all_nodes_agree",
        "test_unauthenticated::test_sessions_of_the_release_before_go_on",
        "test_unauthenticated::test_two_processes_make_one_key",
        "test_wrapped_custody::test_keys_are_no_objects",
        "test_wrapped_custody::test_what_cannot_be_wrapped_is_an_object",
        "test_wrapped_custody::test_without_a_current_domain_key",
    }
)
"""Modules of tests/api, and tests of modules, that `KMSD_TEST_STORE=postgresql` leaves out."""
if "KMSD_TEST_SLOW" in os.environ:
    # Before the modules of tests are imported, which read them.
    for name, value in RELEASE.items():
        os.environ.setdefault(name, value)
EVERY_CUSTODY = "KMSD_TEST_EVERY_CUSTODY" in os.environ

# NSS stretches the PIN for each object that it reads or writes. For a token that lives for a second once is enough.
os.environ.setdefault("NSS_MAX_MP_PBE_ITERATION_COUNT", "1")

# The same examples in each run, but for the slow tier; a machine that is busy with other things is no failure.
settings.register_profile(
    "kmsd", deadline=None, derandomize="KMSD_TEST_SLOW" not in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kmsd")


def pytest_configure(config: pytest.Config) -> None:
    """Compile kmsd once. Where PYTHONDONTWRITEBYTECODE is set, each of its processes would do it anew.

    A run in the background of a shell ignores SIGINT, and so would the daemons that it starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(PACKAGE, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the quick tier; leave out what PostgreSQL does not offer."""
    for item in items:
        if item.path.is_relative_to(QUICK):
            item.add_marker("quick")
    if STORE == "postgresql":
        items[:] = [item for item in items if not (item.path.is_relative_to(API) and _needs_sqlite(item))]


def _needs_sqlite(item: pytest.Item) -> bool:
    module, name = item.path.stem, getattr(item, "originalname", item.name)
    return bool({module, f"{module}::{name}"} & ON_SQLITE_ALONE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test run in both kinds of custody, unless the environment chooses one for all."""
    if "custody" not in metafunc.fixturenames or "KMSD_TEST_CUSTODY" in os.environ:
        return
    module = metafunc.definition.path.stem
    chosen = {module, f"{module}::{metafunc.function.__name__}"} & IN_BOTH_CUSTODIES
    if chosen or (EVERY_CUSTODY and metafunc.definition.path.is_relative_to(API)):
        metafunc.parametrize("custody", ["object", "wrapped"], indirect=True, scope="module")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """With `-n`: whole files, the long ones first."""
    # Not needed, and not imported, with `-p no:xdist`.
    from tests.support.dealing import Dealer  # noqa: PLC0415

    return Dealer(config, log)


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """What a module sets in the environment ends with it: kmsd, opened in this process, sets what its token needs."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(scope="module", name="custody")
def _custody(request: pytest.FixtureRequest) -> str:
    """Where the daemon of a module keeps key material: `object` or `wrapped`."""
    return str(getattr(request, "param", CUSTODY))


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[Harness]:
    """The daemon within this process; shared by a module, whose tests leave it usable."""
    with harness(tmp_path_factory.mktemp("harness"), custody=custody) as found:
        yield found


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon as a running process with two workers; shared by a module, whose tests leave it running."""
    with provisioned(tmp_path_factory.mktemp("daemon"), workers=2) as found:
        found.start()
        yield found
        # Reads back every promised attribute of every object that the module's tests have made.
        found.cli("check")
