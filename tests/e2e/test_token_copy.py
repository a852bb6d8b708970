"""A daemon whose SoftHSM2 token was emptied, as a kill during a login or a power failure leaves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, eventually, provisioned
from tests.support.softhsm_files import token_object


@pytest.fixture(name="daemon")
def _daemon(tmp_path: Path) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as found:
        yield found


def sealed_keys(daemon: Daemon) -> dict[str, bytes]:
    """Fresh keys, and a blob of each."""
    kms = daemon.client()
    keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(3)]
    blobs = {key: kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"] for key in keys}
    kms.close()
    return blobs


def open_all(daemon: Daemon, blobs: dict[str, bytes]) -> None:
    """Every key is there, and is the one that it was."""
    kms = daemon.client()
    for key, blob in blobs.items():
        assert kms.decrypt(CiphertextBlob=blob, KeyId=key)["Plaintext"] == b"text"
    kms.close()


def test_it_starts_with_all_keys(daemon: Daemon) -> None:
    """The first worker restores the file, and the log says so once; what it replaced is kept."""
    daemon.start()
    blobs = sealed_keys(daemon)
    daemon.stop()
    own = token_object(daemon.place)
    own.write_bytes(b"")
    daemon.start()
    open_all(daemon, blobs)
    (told,) = daemon.events("token_object_restored")
    assert (told["level"], told["folder"]) == ("warning", str(own.parent))
    assert own.with_name(told["damaged"]).read_bytes() == b""
    assert daemon.cli("check").returncode in {0, 1}
    assert daemon.cli("jobs", "run", "reconcile").returncode == 0


def test_a_worker_that_dies_in_its_login(daemon: Daemon) -> None:
    """The next one restores the file, while the other worker serves: no key is missing at any time."""
    daemon.start()
    blobs = sealed_keys(daemon)
    before = daemon.workers()
    token_object(daemon.place).write_bytes(b"")
    os.kill(before[0], signal.SIGKILL)
    open_all(daemon, blobs)
    eventually(lambda: bool(daemon.events("token_object_restored")), daemon)
    eventually(lambda: len(daemon.workers()) == 2 and before[0] not in daemon.workers(), daemon)
    eventually(lambda: daemon.get("/readyz")[0] == 200, daemon)
    open_all(daemon, blobs)
    assert before[1] in daemon.workers()


def test_a_command_restores_it_too(daemon: Daemon) -> None:
    """Whoever logs in first; the daemon then finds nothing to do."""
    daemon.start()
    blobs = sealed_keys(daemon)
    daemon.stop()
    token_object(daemon.place).write_bytes(b"")
    done = daemon.cli("check", check=False)
    assert b"token_object_restored" in done.stderr
    assert b"FAIL" not in done.stdout
    daemon.start()
    open_all(daemon, blobs)
    assert daemon.events("token_object_restored") == []
