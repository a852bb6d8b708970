"""`kmsd join`: make this host a node of a database that has nodes. `kmsd init` makes the first."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from kmsd import __version__
from kmsd.app import SystemClock, audit_signer, open_token, open_trail, set_module_environment, token_settings
from kmsd.cli.commands import own_hsm
from kmsd.cli.commands.operator_audit import KMSD, recorded_act
from kmsd.cli.os_errors import in_words
from kmsd.config import node_identity
from kmsd.config.node_identity import NodeIdentity
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.database import database_of
from kmsd.domain.domain_key import DomainKeyState
from kmsd.domain.material import MaterialStatus, TokenName
from kmsd.exit_codes import ExistsAlready
from kmsd.linux import systemd_units
from kmsd.ports import Node, Reader, Store, Token

MAX_DIFFERENCE = timedelta(seconds=5)
"""Maximum difference between the clocks of this host and of the database."""


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "join", help="make this host a further node of a PostgreSQL database"
    )
    command.add_argument("--name", help="the node's name; default: that of the host")
    command.add_argument(
        "--hsm", metavar="NAME", help="the node has another HSM than the first one; name it, as all nodes that use it"
    )
    command.add_argument(
        "--accept-objects",
        action="store_true",
        help="with --hsm: although some keys are objects in another HSM, which this node cannot use",
    )
    command.set_defaults(run=run, beforehand=create_data_dir)


def create_data_dir(config: Config, options: argparse.Namespace) -> None:
    """Create a missing data directory, if run by root, for the user of a kmsd.service that reads this configuration.

    Everything else is then created as that user. Raises `ConfigError`, `CommandError`.
    """
    if os.geteuid() != 0 or config.data_dir.exists():
        return
    try:
        name = systemd_units.user() if systemd_units.starts_with(options.config) else ""
    except systemd_units.UnitError:
        return  # no systemd: the folder is for the invoking user
    if name:
        try:
            config.data_dir.mkdir(mode=0o700)
            shutil.chown(config.data_dir, name, pwd.getpwnam(name).pw_gid)
        except OSError as exc:
            raise (in_words(exc, "there is no data directory") or exc) from exc
        except KeyError as exc:
            raise ConfigError(f"the user {name} of {systemd_units.SERVICE} does not exist") from exc


def create_folders(config: Config) -> None:
    """Create the missing folders. Raises `ConfigError`."""
    for folder, mode in ((config.data_dir, 0o700), (config.audit_dir, 0o750)):
        try:
            folder.mkdir(mode=mode, parents=folder == config.data_dir, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"the folder {folder} cannot be made: {exc.strerror}") from exc


async def run(config: Config, options: argparse.Namespace) -> int:
    """Check token, clock and name, and insert the node. Nothing is changed if one of them is refused."""
    require_several_hosts(config)
    create_folders(config)
    set_module_environment(config)
    hsm = options.hsm or ""
    if options.hsm is not None:
        own_hsm.require_name(options.hsm)
    async with database_of(config).open_before_joining() as store:
        reader = await store.read()
        identity = _identity(config, options.name, await reader.nodes(), hsm)
        await _require_same_time(reader)
        if hsm:
            await own_hsm.require_wrapped(config, reader, accept_objects=options.accept_objects)
    async with database_of(config).open_before_joining(hsm) as store:
        await _require_tokens(config, await store.read())
        async with open_token(token_settings(config, None)) as token:
            await own_hsm.require_other_token(await store.read(), token)
            clock = SystemClock()
            sink = await open_trail(config, "cli", await audit_signer(store, token), clock)
            try:
                parameters = {"node": identity.name, "nodeId": identity.node_id, "hsm": hsm or None}
                async with recorded_act(config, sink, clock, "JoinNode", parameters, source=KMSD):
                    await own_hsm.create_objects(store, token, hsm)
                    await _enter(config, store, identity)
            finally:
                await sink.close()
    print(f"this host is the node {identity.name} of {database_of(config)}")
    if hsm:
        print(own_hsm.NEXT_STEP)
    return 0


async def make_first_node(config: Config) -> str | None:
    """Make this host the first node, if the database has none; return its name. None for SQLite, which has no nodes.

    Raises `ExistsAlready` if the database has other nodes, `ConfigError` if the token lacks objects of the database.
    """
    if not config.store.url:
        return None
    async with database_of(config).open_before_joining() as store:
        reader = await store.read()
        nodes, known = await reader.nodes(), node_identity.read(config.data_dir)
        if known is not None and any(node.node_id == known.node_id for node in nodes):
            return known.name
        if nodes:
            raise ExistsAlready(
                f"the database has nodes already ({', '.join(node.name for node in nodes)}): `kmsd join` makes this "
                "host a further one"
            )
        if await reader.service_keys():
            # A database of a release without nodes, or one whose nodes were removed.
            set_module_environment(config)
            await _require_tokens(config, reader)
        identity = known or NodeIdentity.new(socket.gethostname().lower())
        await _enter(config, store, identity)
        return identity.name


def require_several_hosts(config: Config) -> None:
    """Raise `ConfigError` unless the database may have several nodes."""
    if not config.store.url:
        raise ConfigError("the database is SQLite, which one host serves: nodes need PostgreSQL (docs/postgresql.md)")


def _identity(config: Config, name: str | None, nodes: Sequence[Node], hsm: str) -> NodeIdentity:
    """Return the identity that this host is to have. Raises `ExistsAlready`, `ConfigError`."""
    if not nodes:
        raise ConfigError("the database has no nodes: `kmsd init` makes this host the first one")
    known = node_identity.read(config.data_dir)
    if known is not None and any(node.node_id == known.node_id for node in nodes):
        raise ExistsAlready(f"this host is the node {known.name} already")
    identity = NodeIdentity.new(name or (known.name if known else socket.gethostname().lower()), known, hsm)
    if any(node.name == identity.name for node in nodes):
        raise ExistsAlready(
            f"there is a node {identity.name} already: give this one another name by --name, or remove a node that is "
            f"no more: kmsd node remove {identity.name}"
        )
    return identity


async def _require_same_time(reader: Reader) -> None:
    """Raise `ConfigError` if the clocks of this host and of the database differ."""
    difference = SystemClock().now() - await reader.database_now()
    if abs(difference) > MAX_DIFFERENCE:
        raise ConfigError(
            f"the clock of this host is {difference.total_seconds():+.0f} s from the database's: synchronise both"
        )


async def _require_tokens(config: Config, reader: Reader) -> None:
    """Raise `ConfigError` if a configured token lacks objects that the database lists."""
    for name in (TokenName.MAIN, *config.other_tokens):
        async with open_token(token_settings(config, None, name)) as token:
            await _require_objects(reader, token, name)


async def _require_objects(reader: Reader, token: Token, name: TokenName) -> None:
    """Raise `ConfigError` if a token lacks objects that the database lists, the daemon's own or keys."""
    wanted = {one.object_id: one.owner for one in await reader.token_objects(MaterialStatus.READY) if one.token == name}
    holders = await reader.domain_key_holders()
    for domain_key in await reader.domain_keys():
        # A database of an earlier release says of no HSM what it holds. Then it is the first node's.
        held = holders.get(domain_key.domain_key_id, () if domain_key.is_missing else ("",))
        if domain_key.token == name and domain_key.state is not DomainKeyState.DESTROYED and reader.hsm in held:
            wanted[domain_key.domain_key_id] = "domain key"
    present = {one.object_id for one in await token.list_objects()}
    lacking = [owner for object_id, owner in wanted.items() if object_id not in present]
    if lacking:
        raise ConfigError(
            f"the token {token.info.label!r} (serial {token.info.serial}) lacks {len(lacking)} of {len(wanted)} "
            f"objects that the database lists, such as {lacking[0]}: it is another token. A node with an HSM of its "
            "own: --hsm NAME"
        )


async def _enter(config: Config, store: Store, identity: NodeIdentity) -> None:
    """Write the data folder, then the row. Without a row, the folder's identity is worth nothing."""
    node_identity.write(config.data_dir, identity)
    async with store.write() as transaction:
        now = await transaction.database_now()
        await transaction.insert_node(Node(identity.node_id, identity.name, now, now, __version__, identity.hsm))
