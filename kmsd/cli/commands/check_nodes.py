"""`kmsd check`: this host among the nodes of a PostgreSQL, and its clock against the database's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kmsd.app import SystemClock
from kmsd.cli.commands.check_findings import FAIL, OK, WARN, Finding
from kmsd.cli.commands.join import MAX_DIFFERENCE
from kmsd.cli.commands.own_hsm import called
from kmsd.config import node_identity
from kmsd.config.sections import Config
from kmsd.custody.wrapped_material import lacking_domain_keys
from kmsd.ports import Reader


async def findings(config: Config, reader: Reader) -> AsyncIterator[Finding]:
    """Yield the findings; none for SQLite. Raises `StoreUnavailable`, `ConfigError`."""
    own = node_identity.read(config.data_dir)
    if not config.store.url or own is None:
        return
    nodes = await reader.nodes()
    hsms = {node.hsm for node in nodes}
    uses = f", which uses {called(own.hsm)}" if len(hsms) > 1 else ""
    yield Finding(OK, "node", f"node {own.name}, one of {len(nodes)}{uses}")
    for domain_key in await lacking_domain_keys(reader):
        text = f"{called(own.hsm)} lacks the domain key {domain_key.domain_key_id.hex()}: this node is not ready"
        yield Finding(FAIL, "node", f"{text} (docs/postgresql.md)")
    difference = SystemClock().now() - await reader.database_now()
    if abs(difference) > MAX_DIFFERENCE:
        text = f"the clock is {difference.total_seconds():+.0f} s from the database's: synchronise both"
        yield Finding(WARN, "node", text)
