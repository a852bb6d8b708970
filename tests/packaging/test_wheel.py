"""The wheel and the source distribution, and the command in an environment that holds nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import kmsd
from tests.host import image, packages

ROOT = image.ROOT
EVERY_MODULE = """
import importlib, pkgutil, kmsd
for module in pkgutil.walk_packages(kmsd.__path__, "kmsd."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
pytestmark = [
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the wheels that are kept are for Python 3.11"),
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and source distribution of this checkout."""
    try:
        image.wheels()
    except image.UnavailableError as error:
        pytest.skip(f"no wheels to build with: {error}")
    wheel, source = packages.run_package(ROOT, "wheel", "--output", str(tmp_path_factory.mktemp("built")))
    return wheel, source


@pytest.fixture(scope="module", name="environment")
def _environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment where pip installed the wheel, and what the wheel says that it needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--find-links", str(image.wheels())]
    subprocess.run([folder / "bin/pip", "install", *options, built[0]], check=True, timeout=300)
    return folder


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes long; set KMSD_TEST_SLOW")
def test_the_command_is_there_and_needs_nothing_else(environment: Path, tmp_path: Path) -> None:
    """`pip install` of the wheel alone, as pipx does it: the command starts, and every module can be imported."""
    done = subprocess.run([environment / "bin/kmsd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kmsd {kmsd.__version__}\n"
    subprocess.run([environment / "bin/kmsd", "--help"], capture_output=True, check=True)
    subprocess.run([environment / "bin/python", "-c", EVERY_MODULE], check=True, cwd=tmp_path, timeout=120)


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes long; set KMSD_TEST_SLOW")
def test_its_metadata(built: tuple[Path, Path]) -> None:
    """What an index shows: version, licence with its text, the page, the Pythons, and every file of the program."""
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(f"kmsd-{kmsd.__version__}.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("kmsd", kmsd.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert f"kmsd-{kmsd.__version__}.dist-info/licenses/LICENSE" in names
    files = (path for path in (ROOT / "kmsd").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)) for path in files} == {name for name in names if name.startswith("kmsd/")}


@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes long; set KMSD_TEST_SLOW")
def test_the_source_distribution_is_a_whole_checkout(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Elsewhere, without git and a date, its own scripts/package makes the same wheel and the same archive."""
    subprocess.run(["tar", "-xzf", built[1], "-C", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    assert not (source / ".git").exists()
    wheel, again = packages.run_package(source, "wheel", date=None)
    assert (wheel.parent, wheel.name, again.name) == (source / "dist", built[0].name, built[1].name)
    assert wheel.read_bytes() == built[0].read_bytes()
    assert again.read_bytes() == built[1].read_bytes()
