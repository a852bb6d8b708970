"""Snapshot of the database in one file, and its preparation before it is used again."""

from __future__ import annotations

import os
from pathlib import Path

from kmsd.adapters.sqlite import connection as connections
from kmsd.adapters.sqlite.connection import translated
from kmsd.ports import StoreUnfit

_FORMER = "(first)"
"""Name that the HSM of the first node gets when another one takes its place: no HSM can be given it."""
_NAMES = (
    ("token_object", "token", "custody = 'object'"),
    ("service_key", "purpose", "object_id IN (SELECT object_id FROM token_object WHERE custody = 'object')"),
)
"""Columns that end in `@` and the name of an HSM, and the rows in which they do."""


def take(source: Path, target: Path) -> None:
    """Copy the database at `source`, while others write to it, to the new file `target`; durable on return.

    The copy is one read transaction, which blocks no writer (WAL). `VACUUM INTO` leaves out deleted data: free pages of
    the file do not get into a backup. Raises `StoreUnavailable`, also for a damaged copy.
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
    """Check the integrity of a kmsd database. Raises `StoreUnavailable`."""
    connection = connections.connect(path, busy_seconds=5)
    try:
        with translated():
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
            broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    finally:
        connection.close()
    if found != ["ok"] or broken is not None:
        raise StoreUnfit(f"{path} is damaged: {found[0] if found != ['ok'] else f'dangling row in {broken[0]}'}")


def make_first_hsm(path: Path, hsm: str) -> None:
    """Let an HSM take the place of the first node's: the database is for one host, with this HSM.

    Raises `StoreUnavailable`.
    """
    connection = connections.connect(path, busy_seconds=5)
    try:
        with translated():
            connection.execute("BEGIN IMMEDIATE")
            for table, column, where in _NAMES:
                update = f"UPDATE {table} SET {column} = "
                rows = f"WHERE {where} AND instr({column}, '@')"
                connection.execute(f"{update} {column} || '@' || ? {rows} = 0", (_FORMER,))
                connection.execute(
                    f"{update} substr({column}, 1, instr({column}, '@') - 1) {rows} > 0 AND {column} LIKE '%@' || ?",
                    (hsm,),
                )
            connection.execute("UPDATE domain_key_holder SET hsm = ? WHERE hsm = ''", (_FORMER,))
            connection.execute("UPDATE domain_key_holder SET hsm = '' WHERE hsm = ?", (hsm,))
            connection.execute("COMMIT")
    finally:
        connection.close()


def prepare(path: Path) -> list[bytes]:
    """Prepare a copy for use: bring its schema up to date, and delete its intents and leases. Return the intents' ids.

    An intent may have become a key after the copy was made. If its row stayed, reconcile would destroy the object.
    Without the row the object is unknown to the database, and reconcile leaves unknown objects alone. Raises
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
