"""Upgrades: a database of an older release is brought up to date, one of a newer release is left alone."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from kmsd.adapters.sqlite import connection
from tests.support.daemon import Daemon, provisioned
from tests.support.key_import import add_material, current_id, import_again, imported_key, state_of
from tests.support.previous_release import mark, set_back

LEVELS = range(1, len(connection.migrations())) if "KMSD_TEST_LEVELS" in os.environ else (1,)
"""Of which databases are brought up to date; the last step is taken by all of them."""


def used(daemon: Daemon) -> tuple[str, bytes]:
    """Start it, and seal something: key id and blob. It is stopped afterwards."""
    daemon.start()
    kms = daemon.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"before the upgrade")["CiphertextBlob"]
    kms.close()
    daemon.stop()
    return key_id, blob


@pytest.mark.parametrize("level", LEVELS)
def test_serve_migrates(tmp_path: Path, level: int) -> None:
    """What the older release sealed, the newer one opens, for the same administrator; no step by hand is needed."""
    with provisioned(tmp_path, custody="object") as daemon:
        key_id, blob = used(daemon)
        set_back(daemon.data / "kmsd.sqlite", level)
        refused = daemon.cli("user", "list", check=False)
        assert refused.returncode == 78
        assert b"run `kmsd migrate`" in refused.stderr
        daemon.start()
        assert connection.schema(daemon.data / "kmsd.sqlite") == connection.newest()
        kms = daemon.client()
        opened = kms.decrypt(CiphertextBlob=blob)
        assert (opened["Plaintext"], opened["KeyId"].endswith(key_id)) == (b"before the upgrade", True)
        kms.close()
        assert "database_migrated" in daemon.log()
        daemon.cli("check")


def test_imported_material_outlives_the_upgrade(tmp_path: Path) -> None:
    """Of a release that knew one material of a key: it is the current one, comes back, and gets successors."""
    with provisioned(tmp_path, custody="object") as daemon:
        daemon.start()
        kms, materials = daemon.client(), [os.urandom(32) for _ in range(3)]
        present, deleted = (imported_key(kms, material) for material in materials[:2])
        blobs = [kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"] for key_id in (present, deleted)]
        names = [current_id(kms, key_id) for key_id in (present, deleted)]
        kms.delete_imported_key_material(KeyId=deleted)
        kms.close()
        daemon.stop()
        set_back(daemon.data / "kmsd.sqlite", [step for step, _ in connection.migrations()].index(8) + 1)
        daemon.start()
        kms = daemon.client()
        assert [state_of(kms, key_id) for key_id in (present, deleted)] == ["Enabled", "PendingImport"]
        assert import_again(kms, deleted, materials[1]) == names[1]
        assert [kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs] == [b"old", b"old"]
        successor = add_material(kms, present, materials[2])
        assert current_id(kms, present) == names[0]
        kms.rotate_key_on_demand(KeyId=present)
        assert current_id(kms, present) == successor
        assert kms.decrypt(CiphertextBlob=blobs[0])["Plaintext"] == b"old"
        kms.close()
        daemon.cli("check")


def test_migrate_by_hand(tmp_path: Path) -> None:
    """It says what it did; again, it does nothing; while a daemon runs, it refuses."""
    with provisioned(tmp_path) as daemon:
        database = daemon.data / "kmsd.sqlite"
        newest = connection.newest()
        set_back(database, len(connection.migrations()) - 1)
        before = connection.schema(database)
        assert daemon.cli("migrate").stdout == f"{database}: from schema version {before} to {newest}\n".encode()
        assert daemon.cli("migrate").stdout == f"{database}: schema version {newest}, nothing to do\n".encode()
        daemon.start()
        refused = daemon.cli("migrate", check=False)
        assert (refused.returncode, refused.stdout) == (75, b"")
        assert f"another kmsd serves {daemon.data}" in refused.stderr.decode()


def test_init_does_not_migrate_beneath_a_daemon(tmp_path: Path) -> None:
    """A newer `kmsd init` beside an older daemon would pull the schema from under its feet."""
    with provisioned(tmp_path) as daemon:
        daemon.start()
        database = daemon.data / "kmsd.sqlite"
        mark(database, connection.migrations()[-2][0])
        refused = daemon.cli("init", check=False)
        assert refused.returncode == 75
        assert b"another kmsd serves" in refused.stderr
        mark(database, connection.newest())


def test_a_newer_database(tmp_path: Path) -> None:
    """Every command that would open it says why not and what to do; the file stays as it is, byte by byte."""
    with provisioned(tmp_path) as daemon:
        database = daemon.data / "kmsd.sqlite"
        newest = connection.newest()
        mark(database, newest + 1)
        before = hashlib.sha256(database.read_bytes()).digest()
        for command in ("serve", "migrate", "init", "check", "user list"):
            done = daemon.cli(*command.split(), check=False)
            assert done.returncode != 0, command
            said = (done.stdout + done.stderr).decode()
            assert f"has schema version {newest + 1}, this kmsd" in said, command
            assert "newer release" in said, command
            assert "Traceback" not in said, command
        assert hashlib.sha256(database.read_bytes()).digest() == before


def test_sessions_outlive_the_upgrade(tmp_path: Path) -> None:
    """Session tokens of the release before are accepted for 36 hours from the first start; a new database has none."""
    with provisioned(tmp_path, workers=1) as daemon:
        database = daemon.data / "kmsd.sqlite"

        def until() -> int | None:
            with sqlite3.connect(database) as opened:
                (found,) = opened.execute("SELECT older_until FROM session_mac").fetchone()
            opened.close()
            return None if found is None else int(found)

        assert until() == 0
        set_back(database, 4)
        daemon.cli("migrate")
        assert until() is None
        daemon.start()
        daemon.stop()
        first = until()
        assert first is not None
        assert first > time.time() * 1e6
        daemon.start()
        daemon.stop()
        assert until() == first
