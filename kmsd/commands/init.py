"""`kmsd init`: the daemon's own token objects, the database, the first administrator."""

from __future__ import annotations

import argparse
from typing import Any

from kmsd.adapters.sqlite import connection
from kmsd.app import SystemClock, place_of
from kmsd.commands.acts import KMSD, acting
from kmsd.commands.migrate import migrate_unless_served
from kmsd.commands.users import access_key_elements, print_access_key
from kmsd.config import Config, ConfigError
from kmsd.custody import provisioning


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "init", help="make token objects, database and administrator"
    )
    command.add_argument("--administrator", default="admin", metavar="NAME", help="default: %(default)s")
    command.add_argument(
        "--format", choices=("text", "env", "json"), default="text", help="how to print the access key"
    )
    command.set_defaults(run=run)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Make what is missing; what is there stays. The administrator's secret is printed once."""
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.audit_dir.mkdir(mode=0o750, exist_ok=True)
    if not config.database.exists():
        connection.create(config.database)
    migrate_unless_served(config)
    now = SystemClock().now()
    parameters = {"userName": options.administrator}
    async with acting(config, "Initialize", parameters, source=KMSD) as (rooms, act):
        if not rooms.token.capabilities.algorithms:
            raise ConfigError("the token can hold no keys of this API: it lacks CKM_AES_GCM (see `kmsd check`)")
        await provisioning.make_service_keys(rooms.store, rooms.token, now)
        await rooms.take_audit_key()
        books = await rooms.store.read()
        user = await books.user(config.account, options.administrator)
        if user is None:
            policies = {"AdministratorAccess": provisioning.ADMINISTRATOR_POLICY}
            user = provisioning.new_user(place_of(config), config.account, options.administrator, policies, now)
            await provisioning.create_user(rooms.store, user, now)
        elif await books.access_keys_of(config.account, options.administrator):
            return 0
        made = await provisioning.create_access_key(rooms.store, rooms.token, user, now)
        act.elements = access_key_elements(made)
    print_access_key(made, config, options)
    return 0
