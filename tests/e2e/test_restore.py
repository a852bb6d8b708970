"""What `kmsd restore` says before it gives back a state that has passed: what is missing, revived, lost, replaced."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.custody import token_objects
from kmsd.domain.material import Algorithm
from tests.support.daemon import Daemon, provisioned
from tests.support.harness import Harness, harness

CUTS = int(os.environ.get("KMSD_RESTORE_KILLS", "2"))


def kmsd(place: Harness | Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, over a daemon in either form."""
    config = place.config if isinstance(place, Daemon) else place.config.data_dir.parent / "kmsd.toml"
    command = [sys.executable, "-m", "kmsd", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=120, text=True)


def wipe_all_but_the_trail(data: Path) -> None:
    """The database is lost; the trail is on another disk, say."""
    for path in data.iterdir():
        if path.name != "audit":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_deleted_key_does_not_come_back_unsaid(tmp_path: Path) -> None:
    """A key deleted after the backup, whose token is restored too: the trail tells, and the operator must accept it."""
    with harness(tmp_path, custody="object") as found:
        kms = found.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        file = tmp_path / "kmsd.backup"
        assert kmsd(found, "backup", str(file)).returncode == 0
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
        found.clock.advance(days=8)
        found.tick()
        assert "DeleteKey" in {record["eventName"] for record in found.records()}
        found.stop()
        tokens = tmp_path / "token" / "tokens"
        kept = tmp_path / "kept"
        shutil.copytree(tokens, kept)

        # With the token as it is, the key's material is gone for good, and the restoration says so.
        wipe_all_but_the_trail(found.config.data_dir)
        refused = kmsd(found, "restore", str(file), "--accept-revived")
        assert refused.returncode == 65
        assert f"MISS key:{key_id}" in refused.stdout
        assert "--accept-missing" in refused.stderr

        # With the token of the backup it would live again.
        shutil.rmtree(tokens)
        tokens.mkdir(mode=0o700)
        refused = kmsd(found, "restore", str(file), "--with-token")
        assert refused.returncode == 65
        assert "comes back:" in refused.stdout
        assert f"DeleteKey arn:aws:kms:us-east-1:000000000000:key/{key_id} by AWS Internal" in refused.stdout
        assert "--accept-revived" in refused.stderr
        assert not found.config.database.exists()
        assert list(tokens.iterdir()) == []
        assert kmsd(found, "restore", str(file), "--with-token", "--accept-revived").returncode == 0
        found.start()
        assert found.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        found.stop()

        # And once more with the token in which its material was destroyed.
        shutil.rmtree(tokens)
        kept.rename(tokens)
        done = kmsd(
            found, "restore", str(file), "--replace", "--accept-missing", "--accept-revived", "--accept-rollback"
        )
        assert done.returncode == 0, done.stderr
        found.start()
        assert found.client().describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"
        with pytest.raises(ClientError, match="KeyUnavailableException"):
            found.client().decrypt(CiphertextBlob=blob)
        found.tick()
        assert found.client().describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Unavailable"


@pytest.fixture(name="backed_up")
def _backed_up(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has made a backup, gone on, and been stopped."""
    with provisioned(tmp_path, custody="object") as daemon:
        bob = daemon.user("bob")
        daemon.start()
        kms = daemon.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        assert kmsd(daemon, "backup", str(tmp_path / "kmsd.backup")).returncode == 0
        kms.disable_key(KeyId=key_id)
        kms.create_key()
        daemon.cli("access-key", "delete", bob.access_key_id)
        daemon.stop()
        yield daemon


def test_what_was_taken_away_since_is_listed(backed_up: Daemon, tmp_path: Path) -> None:
    """The trail that goes on from the backup's is kept, tells what comes back, and verifies afterwards."""
    file, daemon = str(tmp_path / "kmsd.backup"), backed_up
    before = sorted(path.name for path in (daemon.data / "audit").iterdir())
    with (daemon.data / "daemon.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a daemon that serves
        running = kmsd(daemon, "restore", file, "--replace")
        assert (running.returncode, "stop it first" in running.stderr) == (75, True)
        checked = kmsd(daemon, "restore", file, "--check")
        assert checked.returncode == 0
        assert "would be undone" in checked.stdout
    occupied = kmsd(daemon, "restore", file, "--accept-revived")
    assert (occupied.returncode, "--replace" in occupied.stderr) == (73, True)
    refused = kmsd(daemon, "restore", file, "--replace")
    assert refused.returncode == 65
    assert "DisableKey arn:aws:kms:us-east-1:000000000000:key/" in refused.stdout
    assert "DeleteAccessKey AKIA" in refused.stdout
    assert "newer than the backup, or another daemon's" in refused.stdout
    assert sorted(path.name for path in (daemon.data / "audit").iterdir()) == before
    done = kmsd(daemon, "restore", file, "--replace", "--accept-revived")
    assert done.returncode == 0, done.stderr
    (aside,) = daemon.data.glob("replaced-*")
    assert (aside / "kmsd.sqlite").exists()
    daemon.start()
    assert len(daemon.client().list_keys()["Keys"]) == 1
    daemon.stop()
    verified = kmsd(daemon, "audit", "verify")
    assert verified.returncode == 0, verified.stdout
    assert "was restored from a backup" in verified.stdout
    assert "is not here" not in verified.stdout
    names = [record["eventName"] for record in daemon.audit_records()]
    assert names.count("DisableKey") == 1


def test_a_lost_trail_shows_against_an_anchor(backed_up: Daemon, tmp_path: Path) -> None:
    """Restored with its trail alone: refused until accepted, whole in itself, and told by checkpoints elsewhere."""
    file, daemon = str(tmp_path / "kmsd.backup"), backed_up
    anchor = tmp_path / "anchor"
    anchor.write_text(kmsd(daemon, "audit", "checkpoints").stdout)
    shutil.rmtree(daemon.data)
    refused = kmsd(daemon, "restore", file)
    assert refused.returncode == 65
    assert "no trail here tells what it was" in refused.stderr
    assert kmsd(daemon, "restore", file, "--accept-rollback").returncode == 0
    verified = kmsd(daemon, "audit", "verify")
    assert verified.returncode == 0, verified.stdout
    assert "what it recorded between the two is not here" in verified.stdout
    anchored = kmsd(daemon, "audit", "verify", "--anchor", str(anchor))
    assert anchored.returncode == 1
    # Cut short after the trail was in place: what is there now is no newer trail.
    for path in daemon.data.glob("kmsd.sqlite*"):
        path.unlink()
    again = kmsd(daemon, "restore", file, "--replace")
    assert again.returncode == 65
    assert "--accept-rollback" in again.stderr
    # Another trail, of a host where `kmsd init` has run, say: moved aside, never deleted.
    shutil.rmtree(daemon.data / "logs")
    trail = daemon.data / "audit"
    other = next(trail.glob("worker-0.*"))
    other.write_bytes(other.read_bytes().replace(b'"kmsd":"start"', b'"kmsd":"stArt"', 1))
    refused = kmsd(daemon, "restore", file, "--accept-rollback")
    assert refused.returncode == 65
    assert "--replace moves it aside" in refused.stderr
    done = kmsd(daemon, "restore", file, "--accept-rollback", "--replace")
    assert done.returncode == 0, done.stderr
    (aside,) = trail.glob("replaced-*")
    assert (aside / other.name).exists()
    assert kmsd(daemon, "audit", "verify").returncode == 0


def test_an_intent_in_the_snapshot_is_not_carried_out(tmp_path: Path) -> None:
    """An object whose row said `creating` when the backup was made may be somebody's key by now: it is left alone."""

    async def intend(database: Path) -> bytes:
        store = SqliteStore(database)
        object_id = await token_objects.record_intent(store, "key:x", datetime.now(UTC))
        await store.close()
        return object_id

    async def make(daemon: Daemon, object_id: bytes) -> None:
        async with daemon.place.open() as token:
            await token.generate_key(object_id, Algorithm.AES_256_GCM)

    async def listed(daemon: Daemon) -> set[bytes]:
        async with daemon.place.open() as token:
            return {found.object_id for found in await token.list_objects()}

    with provisioned(tmp_path) as daemon:
        object_id = asyncio.run(intend(daemon.data / "kmsd.sqlite"))
        daemon.cli("backup", str(tmp_path / "kmsd.backup"))
        asyncio.run(make(daemon, object_id))
        shutil.rmtree(daemon.data)
        done = kmsd(daemon, "restore", str(tmp_path / "kmsd.backup"), "--accept-rollback")
        assert done.returncode == 0, done.stderr
        assert f"{object_id.hex()} in the token is not in the database" in done.stdout
        assert "1 keys were being made" in done.stdout
        daemon.cli("jobs", "run", "reconcile")
        assert object_id in asyncio.run(listed(daemon))


def test_a_restoration_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    """SIGKILL at any moment: no daemon serves what is half in place, and the next attempt restores all of it."""
    with provisioned(tmp_path) as daemon:
        daemon.cli("user", "create", "alice")
        file = tmp_path / "kmsd.backup"
        daemon.cli("backup", str(file))
        daemon.cli("user", "create", "bob")
        command = [sys.executable, "-m", "kmsd", "--config", str(daemon.config), "restore", str(file), "--replace"]
        command += ["--accept-rollback", "--accept-revived", "--accept-missing"]
        for number in range(CUTS):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not list(daemon.data.glob("restoring/*")):
                time.sleep(0.001)
            time.sleep(0.25 * number / CUTS)
            process.kill()
            process.wait()
            if not (daemon.data / "kmsd.sqlite").exists():
                assert daemon.cli("serve", check=False).returncode == 78
        subprocess.run(command, check=True, capture_output=True)
        assert b"bob" not in daemon.cli("user", "list").stdout
        assert b"alice" in daemon.cli("user", "list").stdout
        assert kmsd(daemon, "audit", "verify").returncode == 0
        assert not (daemon.data / "restoring").exists()
