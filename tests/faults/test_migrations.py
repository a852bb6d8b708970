"""An upgrade that is killed at any of its writes: the next start goes on with it, and the data are whole."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.sqlite import connection
from tests.support.daemon import Daemon, provisioned
from tests.support.previous_release import set_back
from tests.support.write_cuts import Dying, Moment

EVERY = "KMSD_TEST_EVERY_CUT" in os.environ
"""Every write, from every level; a daemon is started after each tenth. Else some."""
STEPS = len(connection.migrations())
LEVELS = range(STEPS) if EVERY else (0, 1)
"""How many migrations have been run before; 0: there is no database yet, and `kmsd init` makes it."""
STARTS = 24 if EVERY else 2
"""Deaths of `kmsd serve` itself, at writes that lie evenly apart."""
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}]}

log = logging.getLogger(__name__)


@dataclass
class Used:
    """A daemon that has been used and stopped, its database, and what it has answered."""

    daemon: Daemon
    newest: Path
    blobs: list[bytes]
    shown: dict[str, Any]

    def at(self, level: int, folder: Path) -> Path:
        """The database as it would be, had it been made by an older release."""
        database = folder / f"level-{level}.sqlite"
        shutil.copy(self.newest, database)
        set_back(database, level)
        return database


def use(daemon: Daemon) -> list[bytes]:
    """Make what the first release knew already: keys in several states, aliases, grants, tags, users."""
    daemon.start()
    stranger, kms, blobs = daemon.user("stranger", POLICY), daemon.client(), []
    for number in range(6):
        tags = [{"TagKey": "number", "TagValue": str(number)}]
        key = kms.create_key(Description=f"key {number}", Tags=tags)["KeyMetadata"]["KeyId"]
        blobs.append(kms.encrypt(KeyId=key, Plaintext=b"%d" % number)["CiphertextBlob"])
        kms.create_alias(AliasName=f"alias/upgrade-{number}", TargetKeyId=key)
        kms.create_grant(KeyId=key, GranteePrincipal=stranger.arn, Operations=["Decrypt"], Name=f"grant-{number}")
    kms.rotate_key_on_demand(KeyId=key)
    kms.close()
    daemon.stop()
    return blobs


def show(daemon: Daemon, blobs: list[bytes]) -> dict[str, Any]:
    """What the running daemon says of all that was made."""
    kms = daemon.client()
    shown: dict[str, Any] = {"texts": [kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs]}
    for alias in kms.list_aliases()["Aliases"]:
        key = alias["TargetKeyId"]
        shown[alias["AliasName"]] = (
            kms.describe_key(KeyId=key)["KeyMetadata"],
            kms.list_grants(KeyId=key)["Grants"],
            kms.list_resource_tags(KeyId=key)["Tags"],
            kms.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"],
            kms.get_key_policy(KeyId=key)["Policy"],
        )
    kms.close()
    return shown


@pytest.fixture(scope="module", name="used")
def _used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    with provisioned(tmp_path_factory.mktemp("used"), custody="object") as daemon:
        blobs = use(daemon)
        daemon.start()
        shown = show(daemon, blobs)
        daemon.stop()
        newest = daemon.folder / "newest.sqlite"
        shutil.copy(daemon.data / "kmsd.sqlite", newest)
        yield Used(daemon, newest, blobs, shown)


@pytest.fixture(scope="module", name="dying")
def _dying(tmp_path_factory: pytest.TempPathFactory) -> Dying:
    return Dying(tmp_path_factory.mktemp("dying"))


def cuts(dying: Dying, database: Path | None, folder: Path, stride: int) -> dict[str, Any]:
    """What `tests.faults.migration_cuts` reports."""
    command = [sys.executable, "-m", "tests.faults.migration_cuts", str(database or ""), str(folder), str(stride)]
    environment = {**os.environ, **dying.environment("kmsd.sqlite")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("level", LEVELS)
def test_killed_at_a_write(used: Used, dying: Dying, tmp_path: Path, level: int) -> None:
    """Before, amid and after each write to the database or its journal: a whole number of steps is done.

    The next migration makes of it, row by row, what an undisturbed one makes.
    """
    database = used.at(level, tmp_path) if level else None
    report = cuts(dying, database, tmp_path / "cuts", 1 if EVERY else 61)
    log.info("level %d: %s", level, report)
    assert report["wrong"] == []
    assert report["stages"] == STEPS - max(level, 1) + 1
    if EVERY:  # what is made has its name when it is complete
        assert report["reached"] == list(range(report["stages"])) if level else [0, report["stages"] - 1]


@pytest.mark.parametrize("part", [(number + 0.5) / STARTS for number in range(STARTS)])
def test_serve_is_killed_while_it_migrates(
    used: Used, dying: Dying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """The next one starts, all is there as before, and `kmsd check` finds nothing."""
    daemon, database = used.daemon, used.at(1, tmp_path)
    total = cuts(dying, database, tmp_path / "count", sys.maxsize)["writes"]
    shutil.copy(database, daemon.data / "kmsd.sqlite")
    with monkeypatch.context() as patch:
        for name, value in dying.environment("kmsd.sqlite", 1 + int(part * total), Moment.AMID).items():
            patch.setenv(name, value)
        daemon.start(ready=False)
        assert daemon.process is not None
        assert daemon.process.wait(30) == -signal.SIGKILL
        daemon.process = None
    daemon.start()
    try:
        assert show(daemon, used.blobs) == used.shown
    finally:
        daemon.stop()
    assert connection.schema(daemon.data / "kmsd.sqlite") == connection.newest()
    daemon.cli("check")


def test_init_is_killed(dying: Dying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it makes the database: the next `kmsd init` is the first one."""
    with provisioned(tmp_path) as daemon:
        shutil.rmtree(daemon.data)
        with monkeypatch.context() as patch:
            for name, value in dying.environment("kmsd.sqlite", 40, Moment.AMID).items():
                patch.setenv(name, value)
            assert daemon.cli("init", "--beside", check=False).returncode == -signal.SIGKILL
        assert not (daemon.data / "kmsd.sqlite").exists()
        daemon.cli("init", "--beside", "--administrator", "again")
        daemon.start()
        daemon.cli("check")
