"""`kmsd init`: create the daemon's own token objects, the database, and the first administrator."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from kmsd.adapters.sql.database import Database
from kmsd.app import Components, SystemClock, arn_scope_of, open_token, set_module_environment, token_settings
from kmsd.cli.commands.access_key_output import access_key_elements, add_output, hand_over, require_client_url
from kmsd.cli.commands.join import create_data_dir, create_folders, make_first_node
from kmsd.cli.commands.migrate import migrate_unless_served
from kmsd.cli.commands.operator_audit import KMSD, acting
from kmsd.cli.commands.users import check_name
from kmsd.cloudwatch_logs.data_keys import SERVICE_KEY
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.custody import provisioning
from kmsd.custody.provisioning import NewAccessKey
from kmsd.database import database_of
from kmsd.domain.identity import User
from kmsd.exit_codes import ExistsAlready
from kmsd.ports import Reader

DEFAULT_ADMINISTRATOR = "admin"
ADMINISTRATOR_POLICY_NAME = "AdministratorAccess"


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "init", help="make token objects, database and administrator"
    )
    command.add_argument(
        "--administrator",
        metavar="NAME",
        help=f"the user that may do everything; default: {DEFAULT_ADMINISTRATOR}, unless there is an administrator",
    )
    command.add_argument(
        "--another-administrator", action="store_true", help="although there is an administrator already"
    )
    command.add_argument(
        "--beside", action="store_true", help="although the token holds kmsd's objects of another database"
    )
    add_output(command)
    command.set_defaults(run=run, beforehand=create_data_dir)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Create what is missing and keep what exists. The administrator's secret is shown once."""
    if options.administrator is not None:
        check_name(options.administrator)
    require_client_url(config, options)
    create_folders(config)
    database = database_of(config)
    if not await database.exists():
        if not options.beside:
            await _require_unused_token(config, database)
        await database.create()
    await migrate_unless_served(config)
    node = await make_first_node(config)
    parameters = {"userName": options.administrator or DEFAULT_ADMINISTRATOR, "node": node}
    async with acting(config, "Initialize", parameters, source=KMSD) as (components, act):
        keys_created, access_key = await _provision(components, config, options)
        if access_key is not None:
            act.elements = access_key_elements(access_key)
    if access_key is not None:
        hand_over(access_key, config, options)
    else:
        # On standard error: standard output is for the access key.
        done = "made the keys that were missing" if keys_created else "nothing to do: everything is there"
        print(f"kmsd: {done}; no access key was made", file=sys.stderr)
    return 0


async def _require_unused_token(config: Config, database: Database) -> None:
    """Raise `ExistsAlready` if the token holds objects of kmsd: their database is elsewhere."""
    set_module_environment(config)
    async with open_token(token_settings(config, None)) as token:
        found = await token.list_objects()
    if found:
        raise ExistsAlready(
            f"the token holds {len(found)} objects of kmsd, and there is no database at {database}. Is its disk "
            "mounted, or is a backup to be restored? A second kmsd in the same token: --beside"
        )


async def _provision(
    components: Components, config: Config, options: argparse.Namespace
) -> tuple[bool, NewAccessKey | None]:
    """Create what is missing. Return True if keys were, and the new access key if any. Raises `ExistsAlready`."""
    if not components.token.capabilities.algorithms:
        raise ConfigError("the token can hold no keys of this API: it lacks CKM_AES_GCM (see `kmsd check`)")
    reader, now = await components.store.read(), SystemClock().now()
    user, name = await _administrator(reader, config, options)
    before = len(await reader.service_keys())
    await provisioning.create_service_keys(components.store, components.token, now, [SERVICE_KEY])
    await components.enable_signing()
    keys_created = len(await (await components.store.read()).service_keys()) > before
    if user is None:
        policies = {ADMINISTRATOR_POLICY_NAME: provisioning.ADMINISTRATOR_POLICY}
        user = provisioning.new_user(arn_scope_of(config), config.account, name, policies, now)
        await provisioning.create_user(components.store, user, now)
    elif await reader.access_keys_of(config.account, name):
        return keys_created, None
    return keys_created, await provisioning.create_access_key(components.store, components.token, user, now)


async def _administrator(reader: Reader, config: Config, options: argparse.Namespace) -> tuple[User | None, str]:
    """Return the user if they exist, and their name. Raises `ExistsAlready` if there is another administrator."""
    users = [user for user in await reader.users() if user.account == config.account]
    others = [user for user in users if ADMINISTRATOR_POLICY_NAME in user.policies]
    if options.administrator is None and others:
        return others[0], others[0].name
    name: str = options.administrator or DEFAULT_ADMINISTRATOR
    user = await reader.user(config.account, name)
    if user is None and others and not options.another_administrator:
        raise ExistsAlready(
            f"there is an administrator already: {others[0].name}. A further access key: kmsd access-key create "
            f"{others[0].name}; a further administrator: --another-administrator"
        )
    return user, name
