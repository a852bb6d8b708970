"""The power goes: what the disk holds at that moment is mounted elsewhere, and all that was acknowledged is there.

The data folder and the token lie on ext4 in a file. While clients write, all processes of the daemon are stopped and
the file is copied: what was not synced is in the kernel's memory alone, and not in the copy. Then everything is killed,
the copy is mounted in the place of the original (its journal is replayed, as after a power loss), and a new daemon
starts.
`KMSD_TEST_POWER_LOSSES` says how often; 3 by default.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, provisioned
from tests.support.file_systems import ext4
from tests.support.power_loss import LOSSES, OPTIONS, come_back
from tests.support.workload import Acknowledged, Writers, assert_all_there


def lose_power(daemon: Daemon, writers: Writers, image: Path, copy: Path) -> Acknowledged:
    """Copy what the disk holds; everything that runs is gone on return. What had been acknowledged before."""
    pids = [] if daemon.process is None else [daemon.process.pid, *daemon.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    done = writers.copy()
    shutil.copyfile(image, copy)
    daemon.kill()
    writers.stop()
    return done


@pytest.mark.parametrize("loss", range(LOSSES))
def test_power_loss(tmp_path: Path, loss: int) -> None:
    """Keys, blobs, aliases, grants and log events that were acknowledged are there, and the trail is whole."""
    options, chance = OPTIONS[loss % len(OPTIONS)], random.Random(loss)  # noqa: S311 (when the power goes)
    with ext4(tmp_path, 96, *options) as (image, disk):
        home = disk / "home"
        home.mkdir()
        with provisioned(home, workers=2) as daemon:
            os.sync()  # token and configuration are the test's own work, and not the daemon's
            daemon.start()
            writers = Writers(daemon, threads=4)
            writers.start()
            wanted, deadline = chance.randint(3, 25), time.monotonic() + 30
            while len(writers.done.blobs) < wanted and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            done = lose_power(daemon, writers, image, tmp_path / "copy.img")
            come_back(image, tmp_path / "copy.img", disk, *options)
            daemon.start()
            assert len(done.blobs) >= wanted
            assert_all_there(daemon, done)
            kms = daemon.client()
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
            daemon.cli("check")
            daemon.stop()
            verified = daemon.cli("audit", "verify", check=False)
            assert verified.returncode == 0, verified.stdout.decode()
            recorded = {str(record.get("responseElements")) for record in daemon.audit_records()}
            assert all(any(grant in shown for shown in recorded) for _, grant in done.grants[-5:])
