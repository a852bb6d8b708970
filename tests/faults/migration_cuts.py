"""Migrates a database again and again, killed at each of its writes; run by tests/faults/test_migrations.py.

    LD_PRELOAD=… python -m tests.faults.migration_cuts DATABASE FOLDER STRIDE

For each cut the process that migrates is a fork of this one, and is killed. What it left must be the schema and rows
of some whole number of steps, and another migration must make of it what one that was never disturbed makes. DATABASE
stays as it is; an empty path stands for none: then it is made. STRIDE 1 is every write, 10 every tenth.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kmsd.adapters.sqlite import connection
from tests.support.write_cuts import Moment, arm, writes

FILES = ("", "-wal", "-shm")


def contents(database: Path) -> list[str]:
    """Schema, version and rows; what SQLite itself finds wrong with it stands first."""
    with closing(sqlite3.connect(database)) as opened:
        problems = [str(row) for row in opened.execute("PRAGMA integrity_check") if row != ("ok",)]
        problems += [str(row) for row in opened.execute("PRAGMA foreign_key_check")]
        version = opened.execute("PRAGMA user_version").fetchone()
        return [*problems, str(version), *sorted(opened.iterdump())]


def fresh(old: Path | None, folder: Path) -> Path:
    """A copy of its own to work on, as its owner left it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if old is not None:
        shutil.copy(old, folder / "kmsd.sqlite")
    return folder / "kmsd.sqlite"


def migrate(database: Path) -> None:
    """What `kmsd serve` does, or `kmsd init`."""
    if not database.exists():
        connection.create(database)
    connection.migrate(database)


def killed(act: Callable[[], None], number: int, moment: Moment) -> bool:
    """Do it in a process that dies at its write `number`; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        arm(number, moment)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def stages(old: Path | None, folder: Path) -> list[list[str]]:
    """The contents after each step, from none to all."""
    known, found = connection.migrations(), []
    if old is not None:
        found.append(contents(fresh(old, folder)))
    for steps in range(1, len(known) + 1):
        database = fresh(old, folder)
        connection.migrations = lambda steps=steps: known[:steps]  # type: ignore[misc]
        try:
            migrate(database)
        except connection.StoreUnavailable:
            continue  # it is further than that already
        finally:
            connection.migrations = lambda: known
        if contents(database) not in found:
            found.append(contents(database))
    return found


def cut(old: Path | None, folder: Path, number: int, moment: Moment, whole: list[list[str]]) -> tuple[int, list[str]]:
    """One death, and what comes after it: how many steps it left done, and whatever was not as it must be."""
    database, wrong, reached = fresh(old, folder / "cut"), [], 0
    if not killed(lambda: migrate(database), number, moment):
        wrong.append("it was not killed")
    if database.exists():
        kept = fresh(None, folder / "kept")
        for suffix in FILES:
            if Path(f"{database}{suffix}").exists():
                shutil.copy(f"{database}{suffix}", f"{kept}{suffix}")
        left = contents(kept)
        if left in whole:
            reached = whole.index(left)
        else:
            wrong.append(f"left {left[:3]}")
    migrate(database)
    made = contents(database)
    if made != whole[-1]:
        wrong.append(f"what was made of it afterwards is {made[:3]}")
    return reached, wrong


def main() -> None:
    """Print what was done, and whatever was not as it must be."""
    old, folder, stride = Path(sys.argv[1]) if sys.argv[1] else None, Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir()
    whole = stages(old, folder / "cut")
    database = fresh(old, folder / "cut")
    arm(0)
    migrate(database)
    total = writes()
    wrong, cuts, reached = [], 0, set()
    for number in range(1, total + 1, stride):
        for moment in Moment:
            cuts += 1
            steps, found = cut(old, folder, number, moment, whole)
            reached.add(steps)
            wrong += [f"write {number} of {total}, {moment.name}: {problem}" for problem in found]
    print(json.dumps({"writes": total, "cuts": cuts, "stages": len(whole), "reached": sorted(reached), "wrong": wrong}))  # noqa: T201


if __name__ == "__main__":
    main()
