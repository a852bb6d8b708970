"""`kmsd user` and `kmsd access-key`: users, and the access keys with which they sign requests."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from kmsd.app import SystemClock, arn_scope_of
from kmsd.cli.commands.access_key_output import access_key_elements, add_output, hand_over, require_client_url
from kmsd.cli.commands.listing import add_json, show, time_of
from kmsd.cli.commands.name_reuse import warn_of_references
from kmsd.cli.commands.operator_audit import acting, reading
from kmsd.cli.commands.policy_files import add_policy, read_policies
from kmsd.config.sections import Config
from kmsd.custody import provisioning
from kmsd.domain.identity import AccessKeyStatus, User
from kmsd.errors import ServiceError
from kmsd.exit_codes import ExistsAlready, NotFound, WrongUsage
from kmsd.operations.kms import tag_rules
from kmsd.operations.kms.shapes import Tag
from kmsd.ports import Reader

_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)


def add_to(commands: Any) -> None:
    """Declare the commands."""
    user = commands.add_parser("user", help="create, list, change, delete users").add_subparsers(
        dest="act", required=True
    )
    create = user.add_parser("create", help="a user with an access key, shown once")
    create.add_argument("name")
    add_account(create)
    add_policy(create, "identity policy; none: the user may do nothing yet")
    add_tags(create)
    add_output(create)
    create.set_defaults(run=create_user)
    put = user.add_parser("put-policy", help="replace its identity policy")
    put.add_argument("name")
    add_policy(put, "identity policy", required=True)
    add_account(put)
    put.set_defaults(run=put_policy)
    users = user.add_parser("list", help="all users")
    add_json(users)
    users.set_defaults(run=list_users, needs_pin=False)
    delete = user.add_parser("delete", help="with all access keys")
    delete.add_argument("name")
    add_account(delete)
    delete.set_defaults(run=delete_user)
    _add_access_keys_to(commands)


def _add_access_keys_to(commands: Any) -> None:
    key = commands.add_parser("access-key", help="create, list, disable, enable, delete access keys").add_subparsers(
        dest="act", required=True
    )
    create = key.add_parser("create", help="a further access key of a user, shown once")
    add_output(create)
    create.set_defaults(run=create_access_key)
    listing = key.add_parser("list", help="the access keys of a user")
    add_json(listing)
    listing.set_defaults(run=list_access_keys, needs_pin=False)
    for command in (create, listing):
        command.add_argument("user")
        add_account(command)
    for name, run, text in (
        ("disable", disable_access_key, "refuse its signatures, at once"),
        ("enable", enable_access_key, "accept them again"),
        ("delete", delete_access_key, "for good"),
    ):
        command = key.add_parser(name, help=text)
        command.add_argument("access_key_id")
        command.set_defaults(run=run)


def add_account(command: argparse.ArgumentParser) -> None:
    """Add the option that names an account."""
    command.add_argument("--account", metavar="ID", help="12 digits; default: the configuration's")


def add_tags(command: argparse.ArgumentParser) -> None:
    """Add the option that gives a user or role tags."""
    command.add_argument(
        "--tag", action="append", default=[], metavar="NAME=VALUE", help="for aws:PrincipalTag; may be repeated"
    )


def tags_of(options: argparse.Namespace) -> Mapping[str, str]:
    """Return the tags that a command gives. Raises `WrongUsage`; names must differ in more than case, as in IAM."""
    pairs = [pair.partition("=") for pair in options.tag]
    if any(not name or not equals for name, equals, _ in pairs):
        raise WrongUsage("a tag is written NAME=VALUE")
    if tag_rules.has_twins([name for name, _, _ in pairs]):
        raise WrongUsage("two tags have the same name but for case")
    try:
        return tag_rules.as_mapping(Tag(name, value) for name, _, value in pairs)
    except ServiceError as exc:
        raise WrongUsage(f"--tag: {exc.message}") from exc


def check_name(name: str) -> None:
    """Raise `WrongUsage` unless `name` can be the name of a user or role."""
    if not _NAME.fullmatch(name):
        raise WrongUsage(f"a name has 1 to 64 letters, digits or _+=,.@-, unlike {name!r}")


def account_of(config: Config, options: argparse.Namespace) -> str:
    """Return the account that a command applies to. Raises `WrongUsage`."""
    account: str = options.account or config.account
    check_account(account)
    return account


def check_account(account: str) -> None:
    """Raise `WrongUsage` unless `account` is 12 digits."""
    if not re.fullmatch(r"[0-9]{12}", account):
        raise WrongUsage(f"an account is 12 digits, not {account!r}")


async def _user(reader: Reader, account: str, name: str) -> User:
    """Return the user. Raises `NotFound`."""
    user = await reader.user(account, name)
    if user is None:
        raise NotFound(f"there is no user {name} in account {account}")
    return user


async def create_user(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user create`."""
    account, now = account_of(config, options), SystemClock().now()
    check_name(options.name)
    require_client_url(config, options)
    policies, tags = read_policies(options.policy), tags_of(options)
    user = provisioning.new_user(arn_scope_of(config), account, options.name, policies, now, tags=tags)
    parameters = {"userName": options.name, "policies": policies, "tags": dict(tags) or None}
    async with acting(config, "CreateUser", parameters, account=account) as (components, act):
        if await (await components.store.read()).user(account, options.name) is not None:
            raise ExistsAlready(f"there is a user {options.name} in account {account} already")
        await provisioning.create_user(components.store, user, now)
        access_key = await provisioning.create_access_key(components.store, components.token, user, now)
        act.elements = access_key_elements(access_key)
        await warn_of_references(await components.store.read(), user.arn, now)
    hand_over(access_key, config, options)
    return 0


async def put_policy(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user put-policy`: once this returns, every worker decides by the new policy."""
    policies = read_policies(options.policy)
    account = account_of(config, options)
    parameters = {"userName": options.name, "policies": policies}
    async with (
        acting(config, "PutUserPolicy", parameters, account=account) as (components, _),
        components.store.write() as transaction,
    ):
        await _user(transaction, account, options.name)
        await transaction.put_user_policies(account, options.name, policies)
    return 0


async def list_users(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user list`. Needs the database only."""
    async with reading(config) as reader:
        for user in await reader.users():
            text = f"{user.arn}\t{user.user_id}\t{time_of(user.created_at)}"
            show(options, text, arn=user.arn, user_id=user.user_id, created_at=user.created_at)
    return 0


async def delete_user(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user delete`."""
    account = account_of(config, options)
    async with (
        acting(config, "DeleteUser", {"userName": options.name}, account=account) as (components, _),
        components.store.write() as transaction,
    ):
        await _user(transaction, account, options.name)
        await transaction.delete_user(account, options.name)
    return 0


async def create_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key create`."""
    account = account_of(config, options)
    require_client_url(config, options)
    async with acting(config, "CreateAccessKey", {"userName": options.user}, account=account) as (components, act):
        user = await _user(await components.store.read(), account, options.user)
        access_key = await provisioning.create_access_key(components.store, components.token, user, SystemClock().now())
        act.elements = access_key_elements(access_key)
    hand_over(access_key, config, options)
    return 0


async def list_access_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key list`. Needs the database only."""
    account = account_of(config, options)
    async with reading(config) as reader:
        user = await _user(reader, account, options.user)
        for key in await reader.access_keys_of(account, user.name):
            text = f"{key.access_key_id}\t{key.status}\t{time_of(key.created_at)}"
            show(options, text, access_key_id=key.access_key_id, status=key.status, created_at=key.created_at)
    return 0


async def _require_access_key(reader: Reader, access_key_id: str) -> None:
    """Raise `NotFound` if there is no such access key."""
    if await reader.access_key(access_key_id) is None:
        raise NotFound(f"there is no access key {access_key_id}")


async def _set_status(config: Config, access_key_id: str, status: AccessKeyStatus) -> int:
    parameters = {"accessKeyId": access_key_id, "status": status.value}
    async with (
        acting(config, "UpdateAccessKey", parameters) as (components, _),
        components.store.write() as transaction,
    ):
        await _require_access_key(transaction, access_key_id)
        await transaction.set_access_key_status(access_key_id, status)
    return 0


async def disable_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key disable`: once this returns, no worker accepts the key."""
    return await _set_status(config, options.access_key_id, AccessKeyStatus.INACTIVE)


async def enable_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key enable`."""
    return await _set_status(config, options.access_key_id, AccessKeyStatus.ACTIVE)


async def delete_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key delete`."""
    async with (
        acting(config, "DeleteAccessKey", {"accessKeyId": options.access_key_id}) as (components, _),
        components.store.write() as transaction,
    ):
        await _require_access_key(transaction, options.access_key_id)
        await transaction.delete_access_key(options.access_key_id)
    return 0
