"""Backups of wrapped material: a deleted key comes back from an older one until its domain key is destroyed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.exit_codes import EXIT_DATA
from tests.support.clients import code_of
from tests.support.daemon import Daemon, provisioned
from tests.support.key_ceremonies import listed
from tests.support.key_import import state_of
from tests.support.wrapped_rows import Rows


class Scene:
    """A key that is deleted after a backup, and one that stays, with a blob of each."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.start()
        kms = daemon.client()
        self.gone, self.kept = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
        self.blobs = {
            key: kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"] for key in (self.gone, self.kept)
        }
        self.before = self.backup("before")
        kms.schedule_key_deletion(KeyId=self.gone, PendingWindowInDays=7)
        rows = Rows(daemon.data / "kmsd.sqlite")
        rows.change("UPDATE key SET deletion_at = created_at WHERE key_id = :key", key=self.gone)
        assert self.gone in daemon.cli("jobs", "run", "deletion").stdout.decode()

    def backup(self, name: str) -> str:
        """A backup without the files of the token."""
        path = str(self.daemon.folder / f"{name}.backup")
        self.daemon.cli("backup", "--without-token", path)
        return path

    def restore(self, path: str, *options: str) -> str:
        """Restore, and start. What the command says."""
        self.daemon.stop()
        said = self.daemon.cli("restore", path, "--replace", "--accept-revived", *options).stdout.decode()
        self.daemon.start()
        return said

    def opens(self, key: str) -> str:
        """The error of opening a key's blob; empty if it opens."""
        return code_of(self.daemon.client().decrypt, CiphertextBlob=self.blobs[key])


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Iterator[Scene]:
    with provisioned(tmp_path, custody="wrapped") as daemon:
        yield Scene(daemon)


def test_a_deleted_key_comes_back_with_its_backup(scene: Scene) -> None:
    """While the token has the domain key: the restoration says so, and wants it to be accepted."""
    assert (scene.opens(scene.gone), scene.opens(scene.kept)) == ("AccessDeniedException", "")
    scene.daemon.stop()
    refused = scene.daemon.cli("restore", scene.before, "--replace", check=False)
    assert refused.returncode == EXIT_DATA
    assert f"DeleteKey arn:aws:kms:us-east-1:000000000000:key/{scene.gone}" in refused.stdout.decode()
    scene.restore(scene.before)
    assert (scene.opens(scene.gone), scene.opens(scene.kept)) == ("", "")
    scene.daemon.cli("check")


def test_a_destroyed_domain_key_makes_deletion_final(scene: Scene) -> None:
    """After a rotation, and a backup since: the older backup opens nothing, the newer one all that was not deleted."""
    daemon = scene.daemon
    (old,) = [one for one, (state, _, _) in listed(daemon).items() if state == "current"]
    daemon.cli("domain-key", "rotate")
    daemon.cli("jobs", "run", "rewrap")
    after = scene.backup("after")
    daemon.cli("domain-key", "destroy", old)
    daemon.stop()
    refused = daemon.cli("restore", scene.before, "--replace", "--accept-revived", check=False)
    assert refused.returncode == EXIT_DATA
    assert f"domain key {old} is not in the token: 2 key materials cannot be opened" in refused.stdout.decode()
    scene.restore(scene.before, "--accept-missing")
    assert [scene.opens(key) for key in (scene.gone, scene.kept)] == ["KeyUnavailableException"] * 2
    assert [state_of(daemon.client(), key) for key in (scene.gone, scene.kept)] == ["Unavailable"] * 2
    assert daemon.cli("check", check=False).returncode == 2
    scene.restore(after)
    assert (scene.opens(scene.gone), scene.opens(scene.kept)) == ("AccessDeniedException", "")
    daemon.client().create_key()
    daemon.cli("check")
