"""The aws command line, against a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support.clients import REGION
from tests.support.daemon import Daemon

AWS = Path(sys.executable).with_name("aws")


AWS_2 = Path("/usr/bin/aws")
"""Version 2, which alone has `logs tail`: Debian's package awscli."""


def environment(daemon: Daemon) -> dict[str, str]:
    """What `client.env` exports."""
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": daemon.endpoint,
        "AWS_ACCESS_KEY_ID": daemon.admin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": daemon.admin.secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_PAGER": "",
    }


def export(daemon: Daemon, patch: pytest.MonkeyPatch) -> None:
    """Export it in this process, for libraries that make their clients themselves."""
    for name, value in environment(daemon).items():
        patch.setenv(name, value)
    # boto3 keeps the credentials that it read first.
    patch.setattr(boto3, "DEFAULT_SESSION", None)


def aws(daemon: Daemon, *arguments: str, ok: bool = True) -> Any:
    """What the aws CLI prints, as JSON; of one that must fail, what it complains of."""
    done = subprocess.run(
        [str(AWS), *arguments], env=environment(daemon), capture_output=True, text=True, timeout=60, check=False
    )
    if not ok:
        assert done.returncode != 0, done.stdout
        return done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def start_all(daemon: Daemon) -> None:
    """Start, and wait for every worker.

    Kills during a login are the subject of tests/faults/test_login_cuts.py.
    """
    before = daemon.log().count('"event": "ready"')
    daemon.start()
    deadline = time.monotonic() + 30
    while daemon.log().count('"event": "ready"') == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
