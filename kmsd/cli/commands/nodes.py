"""`kmsd node`: list and remove the nodes of a database."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from kmsd.cli.commands.join import require_several_hosts
from kmsd.cli.commands.listing import add_json, show
from kmsd.cli.commands.operator_audit import KMSD, acting, reading
from kmsd.config import node_identity
from kmsd.config.sections import Config
from kmsd.exit_codes import InputRefused, NotFound, TryLater

ALIVE = timedelta(minutes=1)
"""Time since a node was last seen, up to which it is taken for alive."""


def add_to(commands: Any) -> None:
    """Declare the commands."""
    node = commands.add_parser("node", help="list and remove nodes").add_subparsers(dest="act", required=True)
    listing: argparse.ArgumentParser = node.add_parser("list", help="name, id, version, and when each was last seen")
    add_json(listing)
    listing.set_defaults(run=list_nodes, needs_pin=False)
    remove: argparse.ArgumentParser = node.add_parser("remove", help="remove a node that is no more")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--force", action="store_true", help="although it was seen a moment ago: it is refused at once")
    remove.set_defaults(run=remove_node)


async def list_nodes(config: Config, options: argparse.Namespace) -> int:
    """Print one line for each."""
    require_several_hosts(config)
    async with reading(config) as reader:
        now = await reader.database_now()
        for node in await reader.nodes():
            ago = round((now - node.seen_at).total_seconds())
            hsm = f" HSM {node.hsm}" if node.hsm else ""
            text = f"{node.name} {node.node_id} {node.version}{hsm} seen {ago} s ago"
            fields = {"name": node.name, "node_id": node.node_id, "version": node.version, "joined_at": node.joined_at}
            fields["hsm"] = node.hsm or None
            show(options, text, **fields, seen_seconds_ago=ago)
    return 0


async def remove_node(config: Config, options: argparse.Namespace) -> int:
    """Delete the row. From then on the database refuses all processes of that node."""
    require_several_hosts(config)
    own = node_identity.read(config.data_dir)
    if own is not None and own.name == options.name:
        raise InputRefused(f"{options.name} is this host: remove it from another node")
    async with (
        acting(config, "RemoveNode", {"node": options.name, "force": options.force}, source=KMSD) as (components, act),
        components.store.write() as transaction,
    ):
        found = next((one for one in await transaction.nodes() if one.name == options.name), None)
        if found is None:
            raise NotFound(f"there is no node {options.name}")
        if not options.force and await transaction.database_now() - found.seen_at < ALIVE:
            raise TryLater(f"the node {options.name} was seen less than a minute ago: stop it first, or --force")
        await transaction.delete_node(found.node_id)
        act.elements = {"nodeId": found.node_id}
    print(f"removed the node {options.name}")
    return 0
