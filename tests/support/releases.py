"""An earlier release, out of the repository's history, that runs beside this one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmsd.adapters.postgres import schema

ROOT = Path(__file__).parents[2]
MIGRATIONS = "kmsd/adapters/postgres/migrations"


def _git(*arguments: str) -> bytes | None:
    """What git says; None if it fails, as in a copy without history."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _schema_of(commit: str) -> int:
    """The newest schema version of PostgreSQL at a commit; 0 if it has none."""
    listed = _git("ls-tree", "--name-only", f"{commit}:{MIGRATIONS}") or b""
    return max((int(name[:4]) for name in listed.decode().split() if name.endswith(".sql")), default=0)


def earlier_release() -> tuple[str, int] | None:
    """The newest commit whose releases go on with the tables of this one, and its schema version.

    One with an earlier schema version if there is such a one, so that an upgrade migrates; else the last commit. None
    if there is no history.
    """
    if (found := _git("log", "--format=%H", "--first-parent", "-n", "400")) is None:
        return None
    commits = found.decode().split()
    versions = ((commit, _schema_of(commit)) for commit in commits)
    earlier = next(((commit, version) for commit, version in versions if version < schema.newest()), None)
    if earlier is not None and earlier[1] >= schema._compatible():
        return earlier
    return (commits[0], _schema_of(commits[0])) if commits else None


def unpack(commit: str, folder: Path) -> Path:
    """The tree of a commit."""
    archive = _git("archive", "--format=tar", commit, "kmsd")
    assert archive is not None
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


@contextmanager
def run_from(tree: Path) -> Iterator[None]:
    """Run what is started in the block from the sources of this tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)  # `python -m` looks there first
        patch.setenv("PYTHONPATH", str(tree))
        yield
