"""A backup onto a disk that is full: it says so, the trail says so, and nothing is left that looks like one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.daemon import provisioned
from tests.support.file_systems import small_disk


def test_no_room_for_a_backup(tmp_path: Path) -> None:
    """ENOSPC half way: status 75, an outcome with an error, an empty disk, a daemon that goes on."""
    with provisioned(tmp_path) as daemon, small_disk(tmp_path) as disk:
        daemon.start()
        logs = daemon.client("logs")
        logs.create_log_group(logGroupName="app")
        logs.create_log_stream(logGroupName="app", logStreamName="s")
        event = {"timestamp": int(time.time() * 1000), "message": ""}
        events = [{**event, "message": os.urandom(100_000).hex()} for _ in range(5)]
        for _ in range(3):
            logs.put_log_events(logGroupName="app", logStreamName="s", logEvents=events)
        failed = daemon.cli("backup", str(disk / "kmsd.backup"), check=False)
        assert failed.returncode == 75
        assert failed.stderr == b"kmsd: no backup was made: the disk is full (No space left on device)\n"
        assert list(disk.iterdir()) == []
        records = [record for record in daemon.audit_records() if record["eventName"] == "CreateBackup"]
        assert [record.get("errorCode") for record in records] == [None, "OSError"]
        assert not (daemon.data / "last-backup.json").exists()
        assert daemon.get("/readyz")[0] == 200
