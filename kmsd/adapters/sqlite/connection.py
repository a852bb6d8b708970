"""Open, create and migrate the database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path

from kmsd.adapters.sql.first_start import first_start
from kmsd.linux.files import sync_folder
from kmsd.ports import StoreConflict, StoreMissing, StoreTimeout, StoreUnavailable, StoreUnfit

APPLICATION_ID = 0x6B6D7364
"""`kmsd` in ASCII, stored in the file's header: no other program's database is taken for kmsd's."""

CACHE_KIB = 512
"""KiB of page cache per connection. `kmsd.adapters.sql.cached_reader` caches decoded rows, and the kernel caches the
file: SQLite's default of 2 MiB for each connection of each process would only cost memory."""

MIGRATIONS = resources.files("kmsd.adapters.sqlite") / "migrations"

_SENTENCES = {
    sqlite3.SQLITE_FULL: "the disk of the database is full",
    sqlite3.SQLITE_READONLY: "the database cannot be written: the disk or the file is read-only",
    sqlite3.SQLITE_IOERR: "the disk of the database fails",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened",
    sqlite3.SQLITE_PERM: "this user may not use the database",
}
"""Messages of errors that may be temporary, by SQLite's primary result code."""
_UNFIT = {
    sqlite3.SQLITE_CORRUPT: "the database is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is no database, or is damaged",
}
"""Messages of errors that an operator must resolve, by the same code."""


@contextmanager
def translated() -> Iterator[None]:
    """Translate SQLite's exceptions to the port's.

    A violated constraint becomes `StoreConflict`, a damaged file `StoreUnfit`, a lock held too long `StoreTimeout`, and
    anything else `StoreUnavailable`.
    """
    try:
        yield
    except sqlite3.IntegrityError as exc:
        raise StoreConflict(f"it exists already, or what it belongs to is gone ({exc})") from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_BUSY:
            raise StoreTimeout("another process holds the database") from exc
        text = f"{exc}, {getattr(exc, 'sqlite_errorname', 'no code')}"
        if sentence := _UNFIT.get(code & 0xFF):
            raise StoreUnfit(f"{sentence} ({text})") from exc
        sentence = _SENTENCES.get(code & 0xFF, "the database refused")
        raise StoreUnavailable(f"{sentence} ({text})") from exc


def connect(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Open an existing database. Raises `StoreMissing`, and `StoreUnfit` if it is not kmsd's or not this user's."""
    _require(path)
    with translated():
        connection = sqlite3.connect(
            f"file:{path}?mode=rw",
            uri=True,
            timeout=busy_seconds,
            isolation_level=None,  # BEGIN and COMMIT are explicit
            check_same_thread=False,  # BEGIN and COMMIT run on a thread, one at a time (store.py)
            cached_statements=256,
        )
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID:
            connection.close()
            raise StoreUnfit(f"{path} is not a database of kmsd")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def _require(path: Path) -> None:
    """Explain what SQLite calls "unable to open database file". Raises `StoreMissing`, `StoreUnfit`."""
    try:
        path.stat()
    except FileNotFoundError as exc:
        hint = "is its disk mounted? `kmsd init` makes a new one"
        raise StoreMissing(f"there is no database at {path}: {hint}") from exc
    except OSError as exc:
        raise StoreUnfit(f"{path} cannot be opened: {exc.strerror}; root may run the same command") from exc
    if not os.access(path, os.R_OK, effective_ids=True):
        raise StoreUnfit(f"{path} cannot be opened: it belongs to another user; root may run the same command")


def create(path: Path) -> None:
    """Create a new, empty database, readable by its owner only. Raises `StoreConflict` if the file exists."""
    with creating(path):
        pass


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Create a database as `create` does, and let the block fill it under the path that it gets.

    The file gets its name only when it is complete: after a crash, simply call this again.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        _remove(new)  # left by an earlier process with the same id
        new.touch(mode=0o600, exist_ok=False)
        with translated():
            connection = sqlite3.connect(new, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.close()
        migrate(new)
        yield new
        os.link(new, path)  # never replaces an existing file
    except FileExistsError as exc:
        raise StoreConflict(f"{path} exists already") from exc
    finally:
        _remove(new)
    sync_folder(path.parent)


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def migrations() -> list[tuple[int, str]]:
    """Return all migrations as (version, SQL), in order."""
    files = sorted((entry.name, entry) for entry in MIGRATIONS.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), entry.read_text()) for name, entry in files]


def version(connection: sqlite3.Connection) -> int:
    """Return the schema version of an open database."""
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    return int(number)


def newest() -> int:
    """Return the schema version that this release writes."""
    return migrations()[-1][0]


def schema(path: Path) -> int:
    """Return the schema version of the database at `path`. Raises `StoreUnavailable`."""
    connection = connect(path, busy_seconds=5)
    try:
        with translated():
            return version(connection)
    finally:
        connection.close()


def migrate(path: Path) -> int:
    """Bring the schema up to date, each step in a transaction of its own. Return the number of steps applied.

    Raises `StoreUnfit` for a database that a newer kmsd has written, else `StoreUnavailable`.
    """
    steps = migrations()
    connection = connect(path, busy_seconds=30)
    applied = 0
    try:
        with translated():
            for number, script in steps:
                connection.execute("BEGIN IMMEDIATE")
                present = version(connection)
                if present > steps[-1][0]:
                    connection.execute("ROLLBACK")
                    raise StoreUnfit(
                        f"{path} has schema version {present}, this kmsd knows {steps[-1][0]}: "
                        "it was written by a newer release; upgrade kmsd or restore a backup"
                    )
                if present < number:
                    _run_script(connection, script)
                    connection.execute(f"PRAGMA user_version = {number}")
                    applied += 1
                connection.execute("COMMIT")
    finally:
        connection.close()
    return applied


def date_first_start(path: Path, now: datetime) -> None:
    """Set, at the first start after an upgrade, the times that depend on it. Raises `StoreUnavailable`."""
    connection = connect(path, busy_seconds=30)
    try:
        with translated():
            for statement, value in first_start(now):
                connection.execute(statement, (value,))
    finally:
        connection.close()


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run every statement in the open transaction (`executescript` would commit it first)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    if statement.strip():
        connection.execute(statement)
