"""`kmsd migrate`: bring the database of an older release up to date. `kmsd serve` does the same when it starts."""

from __future__ import annotations

import argparse
from typing import Any

from kmsd.cli.commands import move_database
from kmsd.config.instance_lock import acquire_instance_lock
from kmsd.config.sections import Config
from kmsd.database import database_of


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "migrate", help="bring an older release's database up to date"
    )
    command.add_argument(
        "--to",
        metavar="URL",
        help="move it to this PostgreSQL (postgresql://…), or from PostgreSQL to a file in the data folder (sqlite)",
    )
    command.set_defaults(run=run, needs_pin=False, beforehand=_choose_pin)


def _choose_pin(_: Config, options: argparse.Namespace) -> None:
    """Ask for the PIN only for a move, which is recorded under the audit key."""
    options.needs_pin = options.to is not None


async def run(config: Config, options: argparse.Namespace) -> int:
    """Run the remaining migrations. Raises `ConfigError` while a daemon runs, `StoreUnavailable` if it is too new."""
    if options.to is not None:
        return await move_database.run(config, options.to)
    database = database_of(config)
    with acquire_instance_lock(config):
        before = await database.schema()
        migrated = await database.migrate()
        after = await database.schema()
    if migrated:
        print(f"{database}: from schema version {before} to {after}")
    else:
        print(f"{database}: schema version {after}, nothing to do")
    return 0


async def migrate_unless_served(config: Config) -> None:
    """Migrate for `kmsd init`; an up-to-date database may be in use. Raises as `run`."""
    database = database_of(config)
    if await database.schema() != database.newest():
        with acquire_instance_lock(config):
            await database.migrate()
