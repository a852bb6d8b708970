"""The key manager without CloudWatch Logs: what decides over keys can be read, type-checked and run by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kmsd

PACKAGE = Path(kmsd.__file__).parent
ROOT = PACKAGE.parent
CORE = (
    *("__init__.py", "py.typed", "errors.py", "pipeline.py"),
    *("domain", "ports", "authz", "custody", "operations", "audit", "jobs", "adapters/pkcs11", "event_loop", "linux"),
)
"""From the rules to the pipeline and the token. What puts services together stands above them."""


@pytest.fixture(name="alone", scope="module")
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the core, and nothing else of kmsd."""
    folder = tmp_path_factory.mktemp("core")
    for name in CORE:
        source, target = PACKAGE / name, folder / "kmsd" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(PACKAGE / "adapters" / "__init__.py", folder / "kmsd" / "adapters" / "__init__.py")
    return folder


def run(folder: Path, *command: str) -> None:
    """Run Python on the core. Raises AssertionError with what it says if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "MYPYPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_type_checked(alone: Path) -> None:
    """Strictly, as the whole is."""
    run(alone, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(alone / "cache"))


def test_it_is_imported(alone: Path) -> None:
    """Every module, in an interpreter that has no other kmsd."""
    run(
        alone,
        "-c",
        "import importlib, pkgutil, kmsd\n"
        f"assert kmsd.__path__ == [{str(alone / 'kmsd')!r}]\n"
        "for found in pkgutil.walk_packages(kmsd.__path__, 'kmsd.'):\n"
        "    importlib.import_module(found.name)\n",
    )


def test_it_decides(alone: Path) -> None:
    """The tests of policies, grants and key states hold for it."""
    tests = sorted(str(path) for path in (ROOT / "tests" / "unit").glob("test_policy_*.py"))
    assert len(tests) > 1
    shutil.copytree(ROOT / "tests", alone / "tests", ignore=shutil.ignore_patterns("__pycache__", "e2e", "host"))
    names = [str(Path("tests", "unit", Path(path).name)) for path in tests]
    run(alone, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", *names)
