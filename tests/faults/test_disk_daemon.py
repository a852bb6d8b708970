"""A running daemon whose disk fails to sync, or is full: no answer without its record, nothing acknowledged lost."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import code_of
from tests.support.daemon import CUSTODY, Daemon, provisioned
from tests.support.disk_faults import RETURN, Honest, assert_recorded
from tests.support.file_systems import FailingSyncs, ext4
from tests.support.polling import until
from tests.support.workload import RETRYABLE, Writers, assert_all_there, seconds_until

log = logging.getLogger(__name__)
"""Seconds after the disk's return within which everything must work again."""


@pytest.fixture(name="syncs")
def _syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FailingSyncs:
    return FailingSyncs(tmp_path).take_effect(monkeypatch)


@pytest.fixture(name="own")
def _own(tmp_path: Path, syncs: FailingSyncs) -> Iterator[Daemon]:
    with provisioned(tmp_path, workers=2) as daemon:
        daemon.start()
        yield daemon


def test_syncs_fail(own: Daemon, syncs: FailingSyncs) -> None:
    """EIO from every sync of the trail, of the file beside it, the database, the segments, the token's folder, of all.

    What needs the sync is refused by an error that says "try again", the rest goes on; afterwards all that was
    acknowledged is there, also for a new daemon.
    """
    writers, honest = Writers(own, threads=2), Honest(own)
    key_id = honest.kms.create_key()["KeyMetadata"]["KeyId"]
    writers.start()
    time.sleep(0.3)
    returned = {}
    for part in ("/audit/", ".ahead", "kmsd.sqlite", "/logs/", "/token/", "/"):
        fail_syncs_of(part, syncs, writers, honest, key_id)
        returned[part] = seconds_until(honest.kms.create_key)
        time.sleep(0.2)
    log.info("works again after %s s", {part: round(seconds, 3) for part, seconds in returned.items()})
    assert max(returned.values()) < RETURN, returned
    worked = writers.done.answered["CreateKey"]
    until(lambda: writers.done.answered["CreateKey"] > worked)
    writers.stop()
    assert_all_there(own, writers.done)
    own.kill()
    own.start()
    assert_all_there(own, writers.done)
    own.stop()
    assert_recorded(own, honest.worked)


def fail_syncs_of(part: str, syncs: FailingSyncs, writers: Writers, honest: Honest, key_id: str) -> None:
    """For some tenths of a second; what is answered meanwhile is what may be."""
    kms = honest.kms
    with syncs.of(part):
        time.sleep(0.1)
        before = {name: writers.done.answered[name] for name in ("CreateKey", "PutLogEvents")}
        encrypted = [code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") for _ in range(5)]
        created = [code_of(kms.create_key) for _ in range(5)]
        time.sleep(0.2)
        during = {name: writers.done.answered[name] - count for name, count in before.items()}
        assert honest.daemon.get("/healthz")[0] == 200
    if part == ".ahead":
        # Each worker goes on without it, after one batch that failed.
        assert set(encrypted) <= {"", *RETRYABLE}
        assert during["CreateKey"] > 0
        return
    trail_fails = part in ("/audit/", "/")
    assert set(encrypted) <= (RETRYABLE if trail_fails else {""}), part
    if part == "/logs/" or (part == "/token/" and CUSTODY == "wrapped"):
        assert set(created) == {""}
    else:
        assert set(created) <= RETRYABLE, part
        assert during["CreateKey"] == 0, part
    if trail_fails or part == "/logs/":
        assert during["PutLogEvents"] == 0, part


def fill(place: Path) -> Path:
    """Leave no room at all; the file to remove."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(b"x" * size)
                    os.fsync(file.fileno())
                except OSError:
                    break
                if size == 1:
                    break
    return ballast


@pytest.mark.parametrize("apart", [False, True])
def test_a_full_disk(tmp_path: Path, *, apart: bool) -> None:
    """24 MiB of ext4, filled up: everything that must be written is refused, and works again when there is room.

    With the trail on another disk (`apart`), what changes nothing goes on.
    """
    with ext4(tmp_path, 24) as (_, disk):
        home = disk / "home"
        home.mkdir()
        aside = tmp_path / "trail"
        extra = f'[audit]\ndirectory = "{aside}"\n' if apart else ""
        with provisioned(home, extra=extra) as daemon:
            daemon.start()
            writers, honest = Writers(daemon, threads=2), Honest(daemon)
            kms = honest.kms
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
            writers.start()
            time.sleep(0.3)
            ballast = fill(disk)
            # The trail, the log segments and SQLite's journal may have room left within blocks that are theirs already.
            deadline = time.monotonic() + 20
            while code_of(kms.create_key) == "" and time.monotonic() < deadline:
                pass
            for _ in range(20):
                assert code_of(kms.create_key) in RETRYABLE
            if apart:
                assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
                kms.describe_key(KeyId=key_id)
            assert daemon.get("/healthz")[0] == 200
            ballast.unlink()
            encrypts = seconds_until(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x"))
            creates = seconds_until(kms.create_key)
            log.info("works again after %.3f s (Encrypt), %.3f s more (CreateKey)", encrypts, creates)
            assert encrypts + creates < RETURN
            time.sleep(0.2)
            writers.stop()
            assert_all_there(daemon, writers.done)
            daemon.kill()
            daemon.start()
            assert_all_there(daemon, writers.done)
            daemon.cli("check")
            daemon.stop()
            if not apart:
                assert_recorded(daemon, honest.worked)
