"""Put unpacked files in place for the daemon; existing files are moved aside, never deleted.

Everything moves within one directory, because the service user may have no write access outside its own. The database
comes last. The daemon does not start without it, so an interrupted restore is never served.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from kmsd.adapters.audit_trail.format import COPIES, files_of
from kmsd.backup import database
from kmsd.backup.create import LAST_BACKUP
from kmsd.backup.manifest import DATABASE
from kmsd.config.instance_lock import acquire_instance_lock
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.linux.files import sync_folder

STAGE = "restoring"
"""Folder in the data directory for files that are unpacked but not yet in place."""


@contextmanager
def daemon_stopped(config: Config) -> Iterator[None]:
    """Keep the daemon from starting. Raises `ConfigError` if it runs, or if there can be no data directory."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{config.data_dir} cannot be made: {exc.strerror}") from exc
    with acquire_instance_lock(config):
        yield


def occupied(config: Config) -> list[Path]:
    """Return what a restore would replace, except the trail; the database is the first to move.

    Its companion files go with it: SQLite would apply a leftover write-ahead log to the restored database.
    """
    suffixes = () if config.store.url else ("", "-wal", "-shm", "-makers")
    found = [config.database.with_name(config.database.name + suffix) for suffix in suffixes]
    return [path for path in (*found, config.logs_dir, config.data_dir / LAST_BACKUP) if path.exists()]


def holds_something(config: Config) -> bool:
    """True if there is a database file or a log event to lose."""
    return (config.database.exists() and not config.store.url) or (
        config.logs_dir.is_dir() and any(config.logs_dir.iterdir())
    )


def set_aside(paths: list[Path], within: Path, now: datetime) -> Path | None:
    """Move `paths` into a new folder `within`. Return it, or None if there was nothing to move. Raises OSError."""
    if not paths:
        return None
    folder = within / f"replaced-{now:%Y%m%dT%H%M%SZ}"
    folder.mkdir(mode=0o700)
    for path in paths:
        path.rename(folder / path.name)
    sync_folder(folder)
    sync_folder(within)
    return folder


def trail_files(directory: Path) -> list[Path]:
    """Return all files of a trail. Raises OSError."""
    if not directory.exists():
        return []
    found = [path for files in files_of(directory).values() for _, path in files]
    return [*found, *(path for path in [directory / COPIES] if path.exists())]


def place_trail(staged: Path, directory: Path) -> None:
    """Copy the trail into `directory`, which may be on another disk; durable on return. Raises OSError."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in trail_files(staged):
        descriptor = os.open(directory / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with os.fdopen(descriptor, "wb") as file, path.open("rb") as source:
            while piece := source.read(1024 * 1024):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(directory)


def place_logs(staged: Path, config: Config) -> None:
    """Move the segments into place. Raises OSError."""
    for folder in (staged, *(path for path in staged.iterdir() if path.is_dir())):
        sync_folder(folder)
    if config.logs_dir.is_dir():
        config.logs_dir.rmdir()
    staged.rename(config.logs_dir)


async def place_database(staged: Path, config: Config) -> None:
    """Move the database into place, as the last step: the daemon can start now. Durable on return.

    Raises OSError, and for PostgreSQL what `kmsd.backup.database.load` raises.
    """
    pending = staged / f"{DATABASE}-wal"
    if pending.exists() and pending.stat().st_size:
        raise OSError(f"{pending} was not carried over into the database")
    if config.store.url:
        await database.load(config, staged / DATABASE)
        return
    (staged / DATABASE).rename(config.database)
    sync_folder(config.data_dir)


def place_token(staged: Path, root: Path) -> Path:
    """Put SoftHSM2's files back and return their folder. Raises OSError, also if a token of this name exists."""
    (source,) = (staged / "token").iterdir()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = root / source.name
    folder.mkdir(mode=0o700)
    try:
        for path in source.iterdir():
            target = folder / path.name
            target.touch(mode=0o600)
            target.write_bytes(path.read_bytes())
    except OSError:
        shutil.rmtree(folder)
        raise
    os.sync()
    return folder
