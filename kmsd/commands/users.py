"""`kmsd user` and `kmsd access-key`: who may sign requests."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmsd.app import SystemClock, open_rooms, place_of
from kmsd.authz.new_policy import parse_new
from kmsd.authz.wildcard import fold
from kmsd.commands.acts import acting
from kmsd.commands.named import tell_what_names
from kmsd.config import Config, ConfigError
from kmsd.custody import provisioning
from kmsd.custody.provisioning import NewAccessKey
from kmsd.domain import tags
from kmsd.domain.identity import AccessKeyStatus
from kmsd.domain.policy import PolicyKind
from kmsd.domain.shapes import Tag
from kmsd.errors import MalformedPolicyDocumentException, ServiceError
from kmsd.ports import StoreConflict

_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)


def add_to(commands: Any) -> None:
    """Declare the commands."""
    user = commands.add_parser("user", help="create, list, delete users").add_subparsers(dest="act", required=True)
    create = user.add_parser("create", help="a user with an access key, printed once")
    create.add_argument("name")
    create.add_argument("--account", metavar="ID", help="12 digits; default: the configuration's")
    create.add_argument(
        "--policy", type=Path, metavar="FILE", help="identity policy; none: the user may do nothing yet"
    )
    add_tags(create)
    _add_format(create)
    create.set_defaults(run=create_user)
    put = user.add_parser("put-policy", help="replace its identity policy")
    put.add_argument("name")
    put.add_argument("--policy", type=Path, required=True, metavar="FILE")
    add_account(put)
    put.set_defaults(run=put_policy)
    user.add_parser("list", help="all users").set_defaults(run=list_users)
    delete = user.add_parser("delete", help="with all access keys")
    delete.add_argument("name")
    delete.add_argument("--account", metavar="ID")
    delete.set_defaults(run=delete_user)
    _add_access_keys_to(commands)


def _add_access_keys_to(commands: Any) -> None:
    key = commands.add_parser("access-key", help="manage access keys").add_subparsers(dest="act", required=True)
    for name, run, text in (
        ("create", create_access_key, "a further access key of a user"),
        ("list", list_access_keys, "the access keys of a user"),
    ):
        command = key.add_parser(name, help=text)
        command.add_argument("user")
        command.add_argument("--account", metavar="ID")
        if name == "create":
            _add_format(command)
        command.set_defaults(run=run)
    for name, run, text in (
        ("disable", disable_access_key, "refuse its signatures, at once"),
        ("enable", enable_access_key, "accept them again"),
        ("delete", delete_access_key, "for good"),
    ):
        command = key.add_parser(name, help=text)
        command.add_argument("access_key_id")
        command.set_defaults(run=run)


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "env", "json"), default="text")


def access_key_elements(made: NewAccessKey) -> dict[str, Any]:
    """What the audit trail tells of a new credential, as IAM's CreateAccessKey has it; not the secret."""
    return {"accessKey": {"userName": made.user.name, "accessKeyId": made.access_key_id, "status": "Active"}}


def print_access_key(made: NewAccessKey, config: Config, options: argparse.Namespace) -> None:
    """Show a new credential, once."""
    scheme = "http" if config.listen.tls_certificate is None else "https"
    values = {
        "AWS_ENDPOINT_URL": f"{scheme}://{config.listen.address}",
        "AWS_ACCESS_KEY_ID": made.access_key_id,
        "AWS_SECRET_ACCESS_KEY": made.secret,
        "AWS_REGION": config.region,
        "AWS_DEFAULT_REGION": config.region,
    }
    if config.listen.address.startswith("unix:"):
        del values["AWS_ENDPOINT_URL"]
    if options.format == "env":
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items()))
    elif options.format == "json":
        fields = {"UserName": made.user.name, "Arn": made.user.arn, "AccessKeyId": made.access_key_id}
        print(json.dumps({**fields, "SecretAccessKey": made.secret}, indent=2))
    else:
        print(f"User: {made.user.arn}\nAccessKeyId: {made.access_key_id}\nSecretAccessKey: {made.secret}")


def add_account(command: argparse.ArgumentParser) -> None:
    """The option by which commands name an account."""
    command.add_argument("--account", metavar="ID", help="12 digits; default: the configuration's")


def add_tags(command: argparse.ArgumentParser) -> None:
    """Add the option that gives a user or role tags."""
    command.add_argument(
        "--tag", action="append", default=[], metavar="NAME=VALUE", help="for aws:PrincipalTag; may be repeated"
    )


def tags_of(options: argparse.Namespace) -> Mapping[str, str]:
    """Return the tags that a command gives. Raises `ConfigError`; names must differ in more than case, as in IAM."""
    pairs = [pair.partition("=") for pair in options.tag]
    if any(not name or not equals for name, equals, _ in pairs):
        raise ConfigError("a tag is written NAME=VALUE")
    if len({fold(name) for name, _, _ in pairs}) < len(pairs):
        raise ConfigError("two tags have the same name but for case")
    try:
        return tags.as_mapping(Tag(name, value) for name, _, value in pairs)
    except ServiceError as exc:
        raise ConfigError(f"--tag: {exc.message}") from exc


def check_name(name: str) -> None:
    """Raises `ConfigError` for what cannot be the name of a user or role."""
    if not _NAME.fullmatch(name):
        raise ConfigError("a name has 1 to 64 letters, digits or _+=,.@-")


def account_of(config: Config, options: argparse.Namespace) -> str:
    """The account that a command is about. Raises `ConfigError`."""
    account: str = options.account or config.account
    if not re.fullmatch(r"[0-9]{12}", account):
        raise ConfigError(f"an account is 12 digits, not {account!r}")
    return account


def read_policy(path: Path, kind: PolicyKind = PolicyKind.IDENTITY) -> str:
    """A policy from a file, of identities by default. Raises `ConfigError`, naming the place, if it is none."""
    try:
        text = path.read_text()
        parse_new(text, kind=kind)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except MalformedPolicyDocumentException as exc:
        raise ConfigError(f"{path}: {exc.message}") from exc
    return text


async def create_user(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user create`."""
    account, now = account_of(config, options), SystemClock().now()
    check_name(options.name)
    policies = {} if options.policy is None else {options.policy.stem: read_policy(options.policy)}
    given = tags_of(options)
    user = provisioning.new_user(place_of(config), account, options.name, policies, now, tags=given)
    parameters = {"userName": options.name, "policies": policies, "tags": dict(given) or None}
    async with acting(config, "CreateUser", parameters, account=account) as (rooms, act):
        await provisioning.create_user(rooms.store, user, now)
        made = await provisioning.create_access_key(rooms.store, rooms.token, user, now)
        act.elements = access_key_elements(made)
        await tell_what_names(await rooms.store.read(), user.arn, account, now)
    print_access_key(made, config, options)
    return 0


async def put_policy(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user put-policy`: every worker decides by the new one once this has returned."""
    policies = {options.policy.stem: read_policy(options.policy)}
    account = account_of(config, options)
    parameters = {"userName": options.name, "policies": policies}
    async with (
        acting(config, "PutUserPolicy", parameters, account=account) as (rooms, _),
        rooms.store.write() as transaction,
    ):
        await transaction.put_user_policies(account, options.name, policies)
    return 0


async def list_users(config: Config, _: argparse.Namespace) -> int:
    """`kmsd user list`."""
    async with open_rooms(config, "cli") as rooms:
        for user in await (await rooms.store.read()).users():
            print(f"{user.arn}\t{user.user_id}\t{user.created_at:%Y-%m-%dT%H:%M:%SZ}")
    return 0


async def delete_user(config: Config, options: argparse.Namespace) -> int:
    """`kmsd user delete`."""
    account = account_of(config, options)
    async with (
        acting(config, "DeleteUser", {"userName": options.name}, account=account) as (rooms, _),
        rooms.store.write() as transaction,
    ):
        await transaction.delete_user(account, options.name)
    return 0


async def create_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key create`."""
    account = account_of(config, options)
    async with acting(config, "CreateAccessKey", {"userName": options.user}, account=account) as (rooms, act):
        user = await (await rooms.store.read()).user(account, options.user)
        if user is None:
            raise StoreConflict(f"there is no user {options.user}")
        made = await provisioning.create_access_key(rooms.store, rooms.token, user, SystemClock().now())
        act.elements = access_key_elements(made)
    print_access_key(made, config, options)
    return 0


async def list_access_keys(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key list`."""
    async with open_rooms(config, "cli") as rooms:
        for key in await (await rooms.store.read()).access_keys_of(account_of(config, options), options.user):
            print(f"{key.access_key_id}\t{key.status}\t{key.created_at:%Y-%m-%dT%H:%M:%SZ}")
    return 0


async def _set_status(config: Config, access_key_id: str, status: AccessKeyStatus) -> int:
    parameters = {"accessKeyId": access_key_id, "status": status.value}
    async with (
        acting(config, "UpdateAccessKey", parameters) as (rooms, _),
        rooms.store.write() as transaction,
    ):
        await transaction.set_access_key_status(access_key_id, status)
    return 0


async def disable_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key disable`: no worker accepts it once this has returned."""
    return await _set_status(config, options.access_key_id, AccessKeyStatus.INACTIVE)


async def enable_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key enable`."""
    return await _set_status(config, options.access_key_id, AccessKeyStatus.ACTIVE)


async def delete_access_key(config: Config, options: argparse.Namespace) -> int:
    """`kmsd access-key delete`."""
    async with (
        acting(config, "DeleteAccessKey", {"accessKeyId": options.access_key_id}) as (rooms, _),
        rooms.store.write() as transaction,
    ):
        await transaction.delete_access_key(options.access_key_id)
    return 0
