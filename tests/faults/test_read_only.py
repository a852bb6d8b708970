"""A file system that becomes read-only under a running daemon: what must be written is refused, the rest goes on."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.daemon import Daemon, provisioned
from tests.support.disk_faults import RETURN, Honest, assert_recorded
from tests.support.file_systems import ReadOnly, ext4, mount
from tests.support.workload import RETRYABLE, Writers, assert_all_there, seconds_until

log = logging.getLogger(__name__)
ROUNDS = 8


def answers(daemon: Daemon, honest: Honest, key_id: str, blob: bytes) -> dict[str, Counter[str]]:
    """What calls of each kind are answered, by name; empty: they work."""
    kms = honest.kms
    kinds: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "CreateKey": (kms.create_key, {}),
        "UpdateKeyDescription": (kms.update_key_description, {"KeyId": key_id, "Description": "now"}),
        "Encrypt": (kms.encrypt, {"KeyId": key_id, "Plaintext": b"x"}),
        "Decrypt": (kms.decrypt, {"CiphertextBlob": blob}),
        "GenerateDataKey": (kms.generate_data_key, {"KeyId": key_id, "KeySpec": "AES_256"}),
        "DescribeKey": (kms.describe_key, {"KeyId": key_id}),
    }
    found = {name: Counter(code_of(call, **given) for _ in range(ROUNDS)) for name, (call, given) in kinds.items()}
    assert daemon.get("/healthz")[0] == 200
    return found


def assert_as_promised(found: dict[str, Counter[str]], *, trail: bool) -> None:
    """What writes is refused by an error that says "try again"; so is everything where the trail is read-only too."""
    for name, codes in found.items():
        writes = trail or name in ("CreateKey", "UpdateKeyDescription")
        assert set(codes) <= RETRYABLE if writes else codes == {"": ROUNDS}, (name, codes)


@contextmanager
def running(writers: Writers) -> Iterator[None]:
    """They end with the block, whatever becomes of it."""
    writers.start()
    time.sleep(0.4)
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            writers.stop()
        raise
    writers.stop()


def wait_unready(daemon: Daemon, part: str) -> dict[str, str]:
    """What `/readyz` says once it says no to a part; each worker believes a good answer for a moment."""
    deadline = time.monotonic() + 5
    while (found := daemon.get("/readyz"))[1][part] == "ok" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found[0] == 503, found
    return found[1]


def wait_ready(daemon: Daemon) -> None:
    """Until `/readyz` says yes."""
    deadline = time.monotonic() + 5
    while (found := daemon.get("/readyz"))[0] != 200:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize("apart", [False, True])
def test_the_kernel_gives_up_the_file_system(tmp_path: Path, *, apart: bool) -> None:
    """ext4 that has found an error (`errors=remount-ro`): EROFS for each write, until it is mounted anew.

    With the trail on another disk (`apart`) what changes nothing goes on. No worker dies; `/readyz` says what is wrong;
    after the next mount all that was acknowledged before is there. What is acknowledged in that instant proves nothing
    about kmsd: the kernel itself reports syncs as done that the abort overtook (docs/reliability.md).
    """
    with ext4(tmp_path, 48) as (image, disk):
        home = disk / "home"
        home.mkdir()
        aside = tmp_path / "trail"
        extra = f'[audit]\ndirectory = "{aside}"\n' if apart else ""
        with provisioned(home, extra=extra, workers=2) as daemon:
            daemon.start()
            writers, honest, workers = Writers(daemon, threads=2), Honest(daemon), daemon.workers()
            key_id = honest.kms.create_key()["KeyMetadata"]["KeyId"]
            blob = honest.kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
            with running(writers):
                before = writers.copy()
                subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
                time.sleep(0.1)
                assert_as_promised(answers(daemon, honest, key_id, blob), trail=not apart)
                said = wait_unready(daemon, "store")
                assert said["store"] != "ok"
                assert said["logs"] != "ok"
                assert (said["audit"] == "ok") is apart
                assert daemon.workers() == workers
            daemon.kill()
            unmount(disk)
            # Of a copy: a container that was started meanwhile, by anybody, keeps the mount that was given up.
            mount(Path(shutil.copy(image, tmp_path / "again.img")), disk)
            daemon.start()
            assert_all_there(daemon, before)
            daemon.cli("check")
            daemon.stop()
            assert_recorded(daemon, honest.worked, aside if apart else None)


def unmount(disk: Path) -> None:
    """As soon as the killed processes have let go of it."""
    deadline = time.monotonic() + 10
    while subprocess.run(["umount", str(disk)], capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(name="read_only")
def _read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadOnly:
    return ReadOnly(tmp_path).take_effect(monkeypatch)


@pytest.fixture(name="own")
def _own(tmp_path: Path, read_only: ReadOnly) -> Iterator[Daemon]:
    home = tmp_path / "home"
    home.mkdir()
    with provisioned(home, workers=2) as daemon:
        daemon.start()
        yield daemon


def test_read_only_for_a_while(own: Daemon, read_only: ReadOnly) -> None:
    """The database's folder without trail and logs; the logs; the trail; all of it, and the token. All come back.

    Nothing has to be restarted, and nothing that was acknowledged is lost.
    """
    writers, honest, workers = Writers(own, threads=2), Honest(own), own.workers()
    kms = honest.kms
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    returned = {}
    with running(writers):
        for part in ("data/kmsd.sqlite", "data/logs", "data/audit", "token", ""):
            with read_only.beneath(own.folder / part):
                found = answers(own, honest, key_id, blob)
                if part in ("token", "data/logs"):
                    assert set().union(*found.values()) <= {"", *RETRYABLE}
                else:
                    assert_as_promised(found, trail=part != "data/kmsd.sqlite")
                    assert wait_unready(own, "store" if "sqlite" in part else "audit")
            returned[part] = seconds_until(kms.create_key)
            seconds_until(lambda: kms.encrypt(KeyId=key_id, Plaintext=b"x"))
            time.sleep(0.2)
        log.info("works again after %s s", {part: round(seconds, 3) for part, seconds in returned.items()})
        assert max(returned.values()) < RETURN, returned
        wait_ready(own)
        assert own.workers() == workers
    assert_all_there(own, writers.done)
    own.kill()
    own.start()
    assert_all_there(own, writers.done)
    own.cli("check")
    own.stop()
    assert_recorded(own, honest.worked)
