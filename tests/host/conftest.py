"""A booted Debian 12 for each module of this folder, or a skip that says why there is none.

`KMSD_TEST_HOST=required` turns the skip into an error, for machines that are known to boot one; `KMSD_TEST_HOST=chroot`
boots none, and runs what takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.host import image
from tests.host import service as installation
from tests.host.machine import BOOT_SECONDS, Chroot, machine, running
from tests.host.pages import blocks
from tests.host.service import Service, installed_service
from tests.host.shell import login
from tests.support.polling import until

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test also makes the Debian, which takes minutes."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(1800))
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that fails shows the end of the host's journal."""
    report = yield
    if report.failed and item.path.is_relative_to(HERE):
        report.sections.extend(("journal of the host", found.journal(120)) for found in running)
    return report


def _unavailable(reason: str) -> NoReturn:
    text = f"no booted host: {reason}"
    if os.environ.get("KMSD_TEST_HOST") == "required":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session", name="files")
def _files() -> Path:
    """The root of a Debian."""
    try:
        found = image.debian()
        image.wheels()
    except image.UnavailableError as error:
        _unavailable(str(error))
    return found


@pytest.fixture(scope="session", name="no_boot")
def _no_boot(files: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Why that Debian boots nowhere on this machine; empty if it does."""
    if os.environ.get("KMSD_TEST_HOST") == "chroot":
        return "KMSD_TEST_HOST=chroot"
    try:
        with machine(tmp_path_factory.mktemp("boots"), [files], image.wheels()) as tried:
            tried.boot()
            until(tried.started, BOOT_SECONDS)
    except (image.UnavailableError, AssertionError) as error:
        return str(error)
    return ""


@pytest.fixture(scope="session", name="debian")
def _debian(files: Path, no_boot: str) -> Path:
    """The root of a Debian that boots."""
    if no_boot:
        _unavailable(no_boot)
    return files


@pytest.fixture(scope="session", name="chroot_files")
def _chroot_files(files: Path, no_boot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a Debian that does not boot here, and can be entered."""
    if not no_boot:
        pytest.skip("a host boots here, and test_pages.py runs the same commands on it")
    try:
        with machine(tmp_path_factory.mktemp("enters"), [files], image.wheels(), Chroot) as tried:
            tried.boot()
    except image.UnavailableError as error:
        _unavailable(str(error))
    return files


@pytest.fixture(scope="session", name="installed")
def _installed(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Layers of a host on which docs/install.md was followed in a checkout until kmsd was there, and nothing else."""
    with machine(tmp_path_factory.mktemp("installed"), [debian], image.wheels()) as host:
        image.checkout(host.root / "root/kmsd")
        host.boot()
        with login(host, "/root/kmsd") as shell:
            ran = shell.run(blocks("docs/install.md")["try-install"].text)
        assert ran.failed == (), ran.output
        host.power_off()
        yield [host.upper, debian]


@pytest.fixture(scope="session", name="provisioned")
def _provisioned(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Layers of a host with a token, a database, an administrator and TLS; the service is enabled."""
    with machine(tmp_path_factory.mktemp("provisioned"), installed, image.wheels()) as host:
        installation.provision(host)
        yield [host.upper, *installed]


@pytest.fixture(name="service")
def _service(provisioned: list[Path], tmp_path: Path) -> Iterator[Service]:
    """The installed service of a host that is not booted yet."""
    with installed_service(tmp_path, provisioned, image.wheels()) as found:
        yield found


@pytest.fixture(scope="module", name="shared_service")
def _shared_service(provisioned: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same for a module, whose tests leave it as they found it."""
    with installed_service(tmp_path_factory.mktemp("host"), provisioned, image.wheels()) as found:
        yield found
