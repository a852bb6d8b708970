"""Backup and restore with real processes: under load, cut short, damaged, with another token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kmsd.backup import archive
from tests.support.audit_trail import own_lines
from tests.support.daemon import CUSTODY, Daemon, provisioned

KILLS = int(os.environ.get("KMSD_BACKUP_KILLS", "2"))


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as found:
        found.start()
        yield found


@pytest.fixture(name="stopped")
def _stopped(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path) as found:
        yield found


@dataclass
class Promised:
    """What the daemon has acknowledged."""

    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By key id: alias, grant id, policy, blob, plaintext."""
    events: list[str] = field(default_factory=list)
    """Messages that PutLogEvents took, in order."""


def make_key(daemon: Daemon, number: int, kms: Any = None) -> tuple[str, dict[str, Any]]:
    """A key with all that hangs on it."""
    kms = kms or daemon.client()
    policy = json.dumps(
        {
            "Version": "2012-10-17",
            "Id": f"policy-{number}",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}],
        }
    )
    key_id = kms.create_key(Policy=policy, Tags=[{"TagKey": "n", "TagValue": str(number)}])["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=f"alias/k{number}", TargetKeyId=key_id)
    grant = kms.create_grant(KeyId=key_id, GranteePrincipal=daemon.admin.arn, Operations=["Decrypt"])["GrantId"]
    plaintext = f"secret {number}".encode()
    blob = kms.encrypt(KeyId=key_id, Plaintext=plaintext)["CiphertextBlob"]
    return key_id, {"alias": f"alias/k{number}", "grant": grant, "policy": policy, "blob": blob, "text": plaintext}


class Load:
    """Makes keys and log events until it is stopped; what was acknowledged is in `promised`."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self.promised = Promised()
        self.errors: list[BaseException] = []
        logs = daemon.client("logs")
        logs.create_log_group(logGroupName="app")
        logs.create_log_stream(logGroupName="app", logStreamName="s")
        self._threads = [threading.Thread(target=self._run, args=(act,)) for act in (self._keys, self._logs)]
        for thread in self._threads:
            thread.start()

    def _run(self, act: Any) -> None:
        try:
            act()
        except BaseException as exc:  # noqa: BLE001 (carried to the test)
            self.errors.append(exc)

    def _keys(self) -> None:
        number, kms = 0, self._daemon.client()
        while not self._stop.is_set():
            key_id, found = make_key(self._daemon, number, kms)
            self.promised.keys[key_id] = found
            number += 1

    def _logs(self) -> None:
        logs = self._daemon.client("logs")
        number = 0
        while not self._stop.is_set():
            message = f"event {number}"
            event = {"timestamp": int(time.time() * 1000), "message": message}
            logs.put_log_events(logGroupName="app", logStreamName="s", logEvents=[event])
            self.promised.events.append(message)
            number += 1

    def so_far(self, at_least: int) -> Promised:
        """What has been acknowledged by now; not before it is something."""
        deadline = time.monotonic() + 30
        while min(len(self.promised.keys), len(self.promised.events)) < at_least and time.monotonic() < deadline:
            time.sleep(0.01)
        return Promised(dict(self.promised.keys), list(self.promised.events))

    def stop(self) -> None:
        """End it; raises what a thread raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self.errors:
            raise self.errors[0]


def require(daemon: Daemon, promised: Promised) -> None:
    """Every single thing is there, and every blob opens."""
    kms, logs = daemon.client(), daemon.client("logs")
    for key_id, wanted in promised.keys.items():
        assert kms.decrypt(CiphertextBlob=wanted["blob"])["Plaintext"] == wanted["text"]
        assert kms.describe_key(KeyId=wanted["alias"])["KeyMetadata"]["KeyId"] == key_id
        assert [grant["GrantId"] for grant in kms.list_grants(KeyId=key_id)["Grants"]] == [wanted["grant"]]
        assert json.loads(kms.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"]) == json.loads(
            wanted["policy"]
        )
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName="app")
    messages = [event["message"] for page in pages for event in page["events"]]
    assert messages[: len(promised.events)] == promised.events


def wipe(daemon: Daemon, *, token: bool = False) -> None:
    """As when the disk is lost."""
    shutil.rmtree(daemon.data)
    if token and daemon.place.objects is not None:
        shutil.rmtree(daemon.place.objects)
        daemon.place.objects.mkdir(mode=0o700)


def test_backup_under_load_then_wipe_and_restore(daemon: Daemon, tmp_path: Path) -> None:
    """All that was acknowledged before the backup began is there after it: over the token, then with its files."""
    file = tmp_path / "kmsd.backup"
    load = Load(daemon)
    before = load.so_far(10)
    daemon.cli("backup", str(file))
    after = load.so_far(len(before.keys) + 3)
    load.stop()
    assert len(after.keys) > len(before.keys) >= 10
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".kmsd-backup")] == []
    daemon.stop()
    made = set(load.promised.keys)
    for token in (False, True):
        wipe(daemon, token=token)
        accept = ["--accept-rollback", *(["--with-token"] if token else [])]
        done = daemon.cli("restore", str(file), *accept)
        assert b"whole and signed" in done.stdout
        daemon.start()
        require(daemon, before)
        kms = daemon.client()
        known = {key["KeyId"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"]}
        key_id, _ = make_key(daemon, 10_000, kms)
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["Enabled"] is True
        daemon.stop()
        require_trail(daemon)
        # Keys that were made after the snapshot: their objects lie in the token, unknown, and nobody destroys them.
        unknown = done.stdout.count(b"in the token is not in the database")
        later = len(made - known)
        assert later > 0
        if CUSTODY == "wrapped":
            assert unknown == 0
        else:
            assert unknown <= later if token else unknown >= later


def require_trail(daemon: Daemon) -> None:
    """It verifies, and says what has happened to it."""
    verified = daemon.cli("audit", "verify", check=False)
    assert verified.returncode == 0, verified.stdout.decode()
    assert b"was restored from a backup" in verified.stdout
    told = own_lines(daemon.data / "audit", "restored")
    assert {line["writer"] for line in told} >= {"cli", "worker-0", "worker-1"}
    assert all(line["lost"] is True for line in told)
    records = [record for record in daemon.audit_records() if record["eventName"] == "RestoreBackup"]
    assert [record["additionalEventData"]["phase"] for record in records] == ["intent", "outcome"]


def test_a_killed_backup_leaves_nothing_that_passes_for_one(daemon: Daemon, tmp_path: Path) -> None:
    """SIGKILL at many moments: no file of that name, or a whole one; and the next backup tidies up."""
    logs = daemon.client("logs")
    logs.create_log_group(logGroupName="app")
    logs.create_log_stream(logGroupName="app", logStreamName="s")
    for _ in range(12):
        event = {"timestamp": int(time.time() * 1000), "message": "x" * 200_000}
        logs.put_log_events(logGroupName="app", logStreamName="s", logEvents=[event] * 4)
    folder = tmp_path / "backups"
    folder.mkdir()
    command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "backup"]
    cut_short = 0
    for number in range(KILLS):
        file = folder / f"{number}.backup"
        process = subprocess.Popen([*command, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number % 2:
            time.sleep(0.1 * number)
        else:
            # The moment at which there is something to take for a backup.
            while process.poll() is None and not list(folder.glob(".kmsd-backup-*/unfinished")):
                time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if file.exists():
            assert daemon.cli("restore", "--check", str(file)).returncode == 0
        for left in folder.glob(".kmsd-backup-*/unfinished"):
            refused = daemon.cli("restore", "--check", str(left), check=False)
            if not file.exists():
                cut_short += 1
                assert refused.returncode == 65, refused.stdout
    assert cut_short >= KILLS // 4
    daemon.cli("backup", str(folder / "last.backup"))
    assert list(folder.glob(".kmsd-backup-*")) == []
    assert daemon.get("/readyz")[0] == 200


def test_what_others_put_beside_it_does_not_prevent_a_backup(stopped: Daemon, tmp_path: Path) -> None:
    """A file, links, a pipe and somebody else's folder that are named like an unfinished backup: all stay."""
    folder, own = tmp_path / "backups", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    (own / "kept").touch()
    (folder / ".kmsd-backup-file").touch()
    (folder / ".kmsd-backup-link").symlink_to(own)
    (folder / ".kmsd-backup-nowhere").symlink_to("nowhere")
    os.mkfifo(folder / ".kmsd-backup-pipe")
    expected = {"file", "link", "nowhere", "pipe"}
    if os.geteuid() == 0:
        (folder / ".kmsd-backup-others").mkdir()
        os.chown(folder / ".kmsd-backup-others", 65534, 65534)
        expected.add("others")
    (folder / ".kmsd-backup-left").mkdir()
    stopped.cli("backup", str(folder / "kmsd.backup"))
    assert {path.name.removeprefix(".kmsd-backup-") for path in folder.glob(".kmsd-*")} == expected
    assert (own / "kept").exists()
    stopped.cli("restore", "--check", str(folder / "kmsd.backup"))


def test_a_damaged_backup_is_refused_and_the_part_is_named(stopped: Daemon, tmp_path: Path) -> None:
    """A flipped bit in a part, in its header, in the signature; the end cut off: nothing is put in place."""
    daemon = stopped
    good = tmp_path / "good.backup"
    daemon.cli("backup", str(good))
    shutil.rmtree(daemon.data)
    places: dict[str, int] = {}
    with good.open("rb") as file:

        def note(name: str, content: Iterator[bytes]) -> None:
            places[name] = file.tell()
            for _ in content:
                pass

        archive.read(file, note)
    data = good.read_bytes()
    bad = tmp_path / "bad.backup"

    def refused(content: bytes) -> str:
        bad.write_bytes(content)
        done = daemon.cli("restore", str(bad), "--accept-rollback", check=False)
        assert done.returncode == 65
        assert not (daemon.data / "kmsd.sqlite").exists()
        assert {path.name for path in daemon.data.iterdir()} == {"daemon.lock"}
        return done.stderr.decode()

    for name in ("database.sqlite", "manifest.sig"):
        at = places[name] + 8
        assert f"the part {name}" in refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]), name
    at = places["manifest.json"] - 512 + 3
    assert "the header behind the part audit/" in refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "not finished, or was cut off" in refused(data[: places["manifest.json"] - 512] + bytes(1024))
    daemon.cli("restore", str(good), "--accept-rollback")


def test_the_wrong_token_is_refused(stopped: Daemon, tmp_path: Path) -> None:
    """A database without its token is of no use, and says so."""
    daemon, file = stopped, tmp_path / "kmsd.backup"
    daemon.cli("backup", "--without-token", str(file))
    wipe(daemon, token=True)
    pins = ["--so-pin", "12345678", "--pin", daemon.place.pin.decode()]
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", daemon.place.label, *pins],
        check=True,
        capture_output=True,
    )
    done = daemon.cli("restore", str(file), "--accept-rollback", "--accept-missing", check=False)
    assert done.returncode == 65
    assert b"lacks the daemon's own objects for audit, logs, sealing, sentinel" in done.stderr
    assert b"this backup holds no token" in daemon.cli("restore", str(file), "--with-token", check=False).stderr
    assert not (daemon.data / "kmsd.sqlite").exists()
