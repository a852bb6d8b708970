"""Three nodes are upgraded from an earlier release one after the other, under load, and back: no client notices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kmsd.adapters.postgres import schema
from tests.support.daemon import Daemon
from tests.support.releases import ROOT, earlier_release, run_from, unpack
from tests.support.rolling import Rolling, rolling

ROUNDS = int(os.environ.get("KMSD_ROLLING_UPGRADES", "1"))
"""20 by hand."""


def restart_from(found: Rolling, node: Daemon, tree: Path) -> None:
    """Restart a node with the release in this tree."""
    node.stop()
    with run_from(tree):
        node.start()
    assert node.process is not None
    assert Path(f"/proc/{node.process.pid}/cwd").resolve() == tree.resolve()
    found.wait_for_calls()


@pytest.mark.slow
@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="takes a minute; set KMSD_TEST_SLOW")
@pytest.mark.timeout(300 + 240 * ROUNDS)
def test_no_request_fails(tmp_path: Path) -> None:
    """The first upgraded node migrates the tables, and the others go on with them; so do all after the way back."""
    earlier = earlier_release()
    if earlier is None:
        pytest.skip("this copy of the repository has no history: no earlier release to upgrade from")
    commit, version = earlier
    (tmp_path / "earlier").mkdir()
    old = unpack(commit, tmp_path / "earlier")
    shown = "SELECT version FROM schema_version"
    with run_from(old):
        site = rolling(tmp_path)
        found = site.__enter__()
    try:
        assert found.site.sql(shown) == str(version)
        with found.load():
            for _ in range(ROUNDS):
                for tree in (ROOT, old):
                    for node in found.nodes:
                        restart_from(found, node, tree)
                    assert found.site.sql(shown) == str(schema.newest())
    finally:
        site.__exit__(None, None, None)
