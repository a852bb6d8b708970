"""What a daemon has opened, what it left behind, and how to wait for it."""

from __future__ import annotations

from datetime import UTC, datetime

from kmsd.app import open_components
from kmsd.config import settings as configuration
from kmsd.jobs import reconcile
from tests.support.daemon import Daemon


def opened(daemon: Daemon) -> int:
    """How many logins to the token have been completed."""
    return daemon.log().count('"event": "token_open"')


async def leftovers(daemon: Daemon) -> dict[str, list[str]]:
    """What a reconcile finds that has nobody, once an earlier one has settled what it could."""
    found: dict[str, list[str]] = {}
    async with open_components(configuration.load(daemon.config), "test") as components:
        for _ in range(2):
            report = await reconcile.run_once(components.store, components.token, datetime.now(UTC))
        for kind in reconcile.ReconcileReport.__slots__:
            if getattr(report, kind):
                found[kind] = [str(item) for item in getattr(report, kind)]
        rows = await (await components.store.read()).token_objects()
        if unsettled := [f"{row.owner} {row.status}" for row in rows if row.status != "ready"]:
            found["rows"] = unsettled
    return found
