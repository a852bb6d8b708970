"""Two nodes whose clocks differ: nothing is destroyed before both allow it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support import host_clock
from tests.support.clients import code_of, signing_clock
from tests.support.daemon import Daemon
from tests.support.nodes import Site, first_of_nodes
from tests.support.polling import until
from tests.support.shim import compiler

AHEAD = 50 * 60
"""Seconds, less than the hour that a node believes of its clock."""
DUE = timedelta(minutes=30)


def doomed(site: Site, node: Daemon) -> str:
    """A key whose deletion is due in `DUE`, and the waiting period of seven days nearly over."""
    kms = node.client()
    key_id = str(kms.create_key()["KeyMetadata"]["KeyId"])
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    due = round((datetime.now(UTC) + DUE).timestamp() * 1e6)
    site.sql(f"UPDATE key SET deletion_at = {due} WHERE key_id = '{key_id}'")  # noqa: S608 (as CreateKey answered)
    return key_id


def deleted(node: Daemon) -> list[str]:
    """Ids of the keys that its jobs have deleted."""
    records = [one for one in node.audit_records() if one["eventName"] == "DeleteKey"]
    return [one["serviceEventDetails"]["keyId"] for one in records]


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_a_node_that_is_ahead_deletes_nothing_early(tmp_path: Path) -> None:
    """Its jobs leave a key that is due by its own clock alone, also while the other node is down.

    The other node uses the key again. Once it is removed, its clock no longer counts.
    """
    library = host_clock.build(tmp_path)
    with first_of_nodes(tmp_path) as site:
        right, ahead = site.first, site.host(tmp_path / "ahead")
        ahead.cli("join", "--name", "ahead")
        right.start()
        # The clock of the other node is stored when it first looks for due jobs.
        until(lambda: site.sql("SELECT count(*) FROM clock_reading") == "1")
        host_clock.set_clock(ahead, AHEAD)
        with host_clock.of(ahead, library):
            ahead.start()
        try:
            until(lambda: site.sql("SELECT count(*) FROM clock_reading") == "2")
            kept, lost = doomed(site, right), doomed(site, right)
            with host_clock.of(ahead, library):
                ahead.cli("jobs", "run", "deletion")
            assert deleted(ahead) == []
            # The key is gone for those who ask the node that is ahead, and for nobody else.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(signing_clock, "offset", timedelta(seconds=AHEAD))
                assert code_of(ahead.client().describe_key, KeyId=kept) == "NotFoundException"
            right.client().cancel_key_deletion(KeyId=kept)
            right.client().enable_key(KeyId=kept)
            right.client().encrypt(KeyId=kept, Plaintext=b"x")
            right.stop()
            with host_clock.of(ahead, library):
                ahead.cli("jobs", "run", "deletion")
            assert deleted(ahead) == []
            with host_clock.of(ahead, library):
                name = site.sql("SELECT name FROM node WHERE name <> 'ahead'")
                ahead.cli("node", "remove", name, "--force")
                ahead.cli("jobs", "run", "deletion")
            assert deleted(ahead) == [lost]
        finally:
            ahead.stop()
