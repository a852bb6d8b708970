"""`kmsd role`: roles that users and roles assume for a limited time, through AssumeRole."""

from __future__ import annotations

import argparse
from typing import Any

from kmsd.app import SystemClock, arn_scope_of
from kmsd.cli.commands.listing import add_json, show, time_of
from kmsd.cli.commands.name_reuse import warn_of_references
from kmsd.cli.commands.operator_audit import acting, reading
from kmsd.cli.commands.policy_files import add_policy, add_trust, read_policies, read_policy
from kmsd.cli.commands.users import account_of, add_account, add_tags, check_name, tags_of
from kmsd.config.sections import Config
from kmsd.custody import provisioning
from kmsd.daemon.issuers import issuer_claims
from kmsd.domain.policy import PolicyKind
from kmsd.exit_codes import ExistsAlready, NotFound, WrongUsage
from kmsd.ports import Reader

MAX_SESSION_SECONDS = 43_200
MIN_SESSION_SECONDS = 900


def add_to(commands: Any) -> None:
    """Declare the commands."""
    role = commands.add_parser("role", help="create, list, change, delete roles").add_subparsers(
        dest="act", required=True
    )
    create = role.add_parser("create", help="a role that its trust policy lets others assume")
    create.add_argument("name")
    add_trust(create)
    add_policy(create, "identity policy: what its sessions may do")
    create.add_argument("--max-session-seconds", type=int, default=3600, metavar="N", help="900 to 43200; default 3600")
    add_tags(create)
    create.set_defaults(run=create_role)
    put = role.add_parser("put-policy", help="replace its identity policy")
    put.add_argument("name")
    add_policy(put, "identity policy", required=True)
    put.set_defaults(run=put_policy)
    trust = role.add_parser("put-trust", help="replace its trust policy; existing sessions go on")
    trust.add_argument("name")
    add_trust(trust)
    trust.set_defaults(run=put_trust)
    delete = role.add_parser("delete", help="its sessions end at once")
    delete.add_argument("name")
    delete.set_defaults(run=delete_role)
    listing: argparse.ArgumentParser = role.add_parser("list", help="all roles")
    add_json(listing)
    listing.set_defaults(run=list_roles, needs_pin=False)
    for command in (create, put, trust, delete):
        add_account(command)


async def _require_role(reader: Reader, account: str, name: str) -> None:
    """Raise `NotFound` if there is no such role."""
    if await reader.role(account, name) is None:
        raise NotFound(f"there is no role {name} in account {account}")


async def create_role(config: Config, options: argparse.Namespace) -> int:
    """`kmsd role create`; prints the role's ARN."""
    check_name(options.name)
    if not MIN_SESSION_SECONDS <= options.max_session_seconds <= MAX_SESSION_SECONDS:
        raise WrongUsage(f"--max-session-seconds must be {MIN_SESSION_SECONDS} to {MAX_SESSION_SECONDS}")
    policies = read_policies(options.policy)
    now, tags = SystemClock().now(), tags_of(options)
    role = provisioning.new_role(
        arn_scope_of(config),
        account_of(config, options),
        options.name,
        trust_policy=read_policy(options.trust, PolicyKind.TRUST, issuer_claims(config)),
        policies=policies,
        seconds=options.max_session_seconds,
        now=now,
        tags=tags,
    )
    parameters = {
        "roleName": options.name,
        "assumeRolePolicyDocument": role.trust_policy,
        "policies": policies,
        "maxSessionDuration": options.max_session_seconds,
        "tags": dict(tags) or None,
    }
    async with acting(config, "CreateRole", parameters, account=role.account) as (components, act):
        if await (await components.store.read()).role(role.account, role.name) is not None:
            raise ExistsAlready(f"there is a role {role.name} in account {role.account} already")
        await provisioning.create_role(components.store, role, now)
        act.elements = {"role": {"roleName": role.name, "roleId": role.role_id, "arn": role.arn}}
        await warn_of_references(await components.store.read(), role.arn, now)
    print(role.arn)
    return 0


async def put_policy(config: Config, options: argparse.Namespace) -> int:
    """`kmsd role put-policy`; applies to running sessions too."""
    policies = read_policies(options.policy)
    account, parameters = account_of(config, options), {"roleName": options.name, "policies": policies}
    async with (
        acting(config, "PutRolePolicy", parameters, account=account) as (components, _),
        components.store.write() as transaction,
    ):
        await _require_role(transaction, account, options.name)
        await transaction.put_role_policies(account, options.name, policies)
    return 0


async def put_trust(config: Config, options: argparse.Namespace) -> int:
    """`kmsd role put-trust`."""
    trust = read_policy(options.trust, PolicyKind.TRUST, issuer_claims(config))
    account, parameters = account_of(config, options), {"roleName": options.name, "policyDocument": trust}
    async with (
        acting(config, "UpdateAssumeRolePolicy", parameters, account=account) as (components, _),
        components.store.write() as transaction,
    ):
        await _require_role(transaction, account, options.name)
        await transaction.put_trust_policy(account, options.name, trust)
    return 0


async def delete_role(config: Config, options: argparse.Namespace) -> int:
    """`kmsd role delete`."""
    account, parameters = account_of(config, options), {"roleName": options.name}
    async with (
        acting(config, "DeleteRole", parameters, account=account) as (components, _),
        components.store.write() as transaction,
    ):
        await _require_role(transaction, account, options.name)
        await transaction.delete_role(account, options.name)
    return 0


async def list_roles(config: Config, options: argparse.Namespace) -> int:
    """`kmsd role list`. Needs the database only."""
    async with reading(config) as reader:
        for role in await reader.roles():
            seconds, created_at = role.max_session_seconds, role.created_at
            text = f"{role.arn}\t{role.role_id}\t{seconds} s\t{time_of(created_at)}"
            show(options, text, arn=role.arn, role_id=role.role_id, max_session_seconds=seconds, created_at=created_at)
    return 0
