"""What holds of a daemon whose disk fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.audit_trail import trail_records
from tests.support.daemon import Daemon

RETURN = 20.0
"""Bounds, in seconds, how long calls fail after the disk is well; within one second where nothing else runs."""


def assert_recorded(daemon: Daemon, request_ids: set[str], trail: Path | None = None) -> None:
    """Every answer that was a success has its record, and the trail is whole; None: it lies in its usual place."""
    records = daemon.audit_records() if trail is None else trail_records(trail)
    recorded = {record.get("requestID") for record in records}
    assert request_ids - recorded == set()
    verified = daemon.cli("audit", "verify", check=False)
    assert verified.returncode == 0, verified.stdout.decode() + verified.stderr.decode()


class Honest:
    """A client that keeps the request ids of all that worked."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.kms = daemon.client()
        self.worked: set[str] = set()
        self.kms.meta.events.register("after-call.kms.*", self._after)

    def _after(self, http_response: Any, **_: Any) -> None:
        if http_response.status_code == 200:
            self.worked.add(http_response.headers["x-amzn-RequestId"])
