"""The database as one file at one instant, and what is done to such a file before it serves again."""

from __future__ import annotations

import os
from pathlib import Path

from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.connection import translated
from kmsd.ports import StoreUnfit


def take(source: Path, target: Path) -> None:
    """Copy the database at `source`, while others write to it, to the new file `target`; durable on return.

    One read transaction sees one instant, and hinders no writer (WAL). `VACUUM INTO` leaves out what was deleted: a
    page that is free in the file does not go into a backup. Raises `StoreUnavailable`, also for a copy that is not
    sound.
    """
    target.touch(mode=0o600, exist_ok=False)
    connection = connections.connect(source, busy_seconds=30)
    try:
        with translated():
            connection.execute("VACUUM INTO ?", (str(target),))
    finally:
        connection.close()
    check(target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path) -> None:
    """Raises `StoreUnavailable` unless the file is a sound database of kmsd."""
    connection = connections.connect(path, busy_seconds=5)
    try:
        with translated():
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
            broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    finally:
        connection.close()
    if found != ["ok"] or broken is not None:
        raise StoreUnfit(f"{path} is damaged: {found[0] if found != ['ok'] else f'dangling row in {broken[0]}'}")


def prepare(path: Path) -> list[bytes]:
    """Let a copy serve: bring its schema up to date, and drop the intents in it. Their object ids.

    An intent may have become a key after the copy was made. Were its row still here, reconcile would destroy the
    object; without it the object is one that the database does not know, and those are left alone. Raises
    `StoreUnavailable`.
    """
    check(path)
    connections.migrate(path)
    connection = connections.connect(path, busy_seconds=5)
    try:
        with translated():
            connection.execute("PRAGMA journal_mode = WAL")
            dropped = connection.execute("DELETE FROM token_object WHERE status = 'creating' RETURNING object_id")
            intents = [bytes(row[0]) for row in dropped]
            connection.execute("DELETE FROM lease")
    finally:
        connection.close()
    return intents
