"""`kmsd status`: one screen that tells if all is well, without the PIN."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmsd.cli.commands.status import ago
from tests.support.daemon import Daemon, provisioned

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as daemon:
        yield daemon


def status(daemon: Daemon) -> tuple[int, dict[str, list[tuple[str, bool]]]]:
    """Exit status, and the lines by topic."""
    done = daemon.cli("status", "--json", check=False)
    found: dict[str, list[tuple[str, bool]]] = {}
    for line in json.loads(done.stdout)["lines"]:
        found.setdefault(line["topic"], []).append((line["text"], line["is_well"]))
    return done.returncode, found


def test_a_daemon_that_serves(own: Daemon) -> None:
    """Its processes, what `/readyz` says, keys, the trail and the last backup; also without the PIN."""
    own.start()
    kms = own.client()
    kms.disable_key(KeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    kms.create_key()
    pin = own.folder / "pin"
    pin.rename(own.folder / "hidden")
    code, found = status(own)
    assert code == 0
    (processes, _), (ready, _) = found["daemon"]
    assert own.process is not None
    assert processes.startswith(f"process {own.process.pid}, 2 of 2 workers, since ")
    assert ready.startswith("ready (token, store, audit")
    assert found["keys"] == [("1 Disabled, 1 Enabled", True)]
    assert {text.partition(":")[0] for text, _ in found["trail"]} == {"cli", "worker-0", "worker-1"}
    assert found["backup"] == [("none was made on this host", False)]
    assert found["jobs"][0][0].startswith("run by ")
    screen = own.cli("status").stdout.decode().splitlines()
    assert screen[1].startswith("daemon      process ")
    assert "backup      ! none was made on this host" in screen
    (own.folder / "hidden").rename(pin)
    own.cli("backup", str(own.folder / "backups/"))
    assert status(own)[1]["backup"][0][1]


def test_one_that_does_not(own: Daemon) -> None:
    """It says so, with status 1; and what it finds without a daemon."""
    code, found = status(own)
    assert (code, found["daemon"]) == (1, [("does not run", False)])
    assert found["keys"] == [("none", True)]
    assert found["jobs"] == [("no process runs them", True)]
    (own.data / "kmsd.sqlite").rename(own.data / "lost")
    code, found = status(own)
    assert code == 1
    assert "there is no database at" in found["database"][0][0]


@pytest.mark.parametrize(
    ("past", "shown"),
    [
        (timedelta(0), "0 s ago"),
        (timedelta(seconds=119), "119 s ago"),
        (timedelta(minutes=3, seconds=59), "3 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=9), "9 d ago"),
        (timedelta(seconds=-5), "0 s ago"),
    ],
)
def test_how_long_ago(past: timedelta, shown: str) -> None:
    """Two of a unit at least; a clock that was set back gives no negative time."""
    assert ago(NOW - past, NOW) == shown
