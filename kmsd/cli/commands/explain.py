"""`kmsd explain`: show statement by statement why a principal may or may not perform an action on a key.

Needs the database only: neither token nor PIN.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from kmsd.app import SystemClock
from kmsd.authz import actions
from kmsd.authz.circumstances import Circumstances
from kmsd.authz.explain import StatementTrace, explain
from kmsd.authz.request import Allowed, AuthorizationRequest
from kmsd.cli.commands.named_keys import key_named
from kmsd.cli.commands.operator_audit import reading
from kmsd.config.sections import Config
from kmsd.custody import resource_facts
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.exit_codes import NotFound, WrongUsage
from kmsd.ports import Reader

_USER = re.compile(r"arn:[a-z-]+:iam::([0-9]{12}):user/([\w+=,.@-]+)", re.ASCII)
_ROLE = re.compile(r"arn:[a-z-]+:iam::([0-9]{12}):role/([\w+=,.@-]+)", re.ASCII)
_SESSION = re.compile(r"arn:[a-z-]+:sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)/([\w+=,.@-]+)", re.ASCII)
_ROOT = re.compile(r"arn:[a-z-]+:iam::([0-9]{12}):root", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com")


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "explain", help="why a principal may do an action, or may not"
    )
    command.add_argument("--principal", required=True, metavar="ARN", help="user, role, role session, root or service")
    command.add_argument("--action", required=True, metavar="kms:ACTION")
    command.add_argument("--key", metavar="ID", help="key id, ARN or alias; none: an action without resource")
    command.add_argument("--context", action="append", default=[], metavar="NAME=VALUE", help="encryption context")
    command.add_argument("--condition", action="append", default=[], metavar="KEY=VALUE", help="such as aws:SourceIp=…")
    command.set_defaults(run=run, needs_pin=False)


async def run(config: Config, options: argparse.Namespace) -> int:
    """Print the decision and the statements considered. Return 0 if allowed, 1 if denied."""
    complaint = actions.complaint(options.action)
    if complaint is not None:
        print(f"kmsd: warning: {complaint}", file=sys.stderr)
    async with reading(config) as reader:
        caller = await _caller(reader, options.principal)
        query = await _query(config, reader, caller, options)
    found = explain(query)
    if isinstance(found.decision, Allowed):
        print(f"ALLOWED by {found.decision.by}")
    else:
        print(f"DENIED: {found.decision.reason}\n{found.decision.message}")
    for considered in found.considered:
        _print(considered)
    return 0 if isinstance(found.decision, Allowed) else 1


async def _query(config: Config, reader: Reader, caller: Caller, options: argparse.Namespace) -> AuthorizationRequest:
    now = SystemClock().now()
    key = None
    if options.key is not None:
        key = await key_named(reader, config, options.key, now, account=caller.account)
    conditions = _pairs(options.condition)
    policies = (*caller.identity_policies, *(() if key is None else (key.policy,)))
    aliases, tags = await resource_facts.of_key(reader, key, policies, now)
    circumstances = Circumstances(now=now, region=config.region, key=key, aliases=aliases, tags=tags)
    if key is None:
        account = caller.account
        return AuthorizationRequest(
            caller, options.action, "*", account, conditions=conditions, circumstances=circumstances
        )
    return AuthorizationRequest(
        caller,
        options.action,
        key.arn,
        key.account,
        resource_policy=key.policy,
        grants=await reader.grants_to(key.key_id, caller.grantee_names),
        encryption_context=_pairs(options.context),
        conditions=conditions,
        circumstances=circumstances,
    )


def _pairs(pairs: list[str]) -> dict[str, str]:
    if any("=" not in pair for pair in pairs):
        raise WrongUsage("a pair is written NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


async def _caller(reader: Reader, arn: str) -> Caller:
    """Return the principal with its present policies. Raises `NotFound` if it does not exist, `WrongUsage`."""
    if found := _ROOT.fullmatch(arn):
        return Caller(PrincipalType.ACCOUNT, arn, found[1], found[1])
    if found := _USER.fullmatch(arn):
        user = await reader.user(found[1], found[2])
        if user is None:
            raise NotFound(f"there is no user {arn}")
        policies = tuple(user.policies.values())
        return Caller(
            PrincipalType.USER,
            arn,
            user.account,
            user.user_id,
            "",
            user.name,
            tags=user.tags,
            identity_policies=policies,
        )
    if found := _SESSION.fullmatch(arn) or _ROLE.fullmatch(arn):
        session = found[3] if found.re is _SESSION else "explained"
        role = await reader.role(found[1], found[2])
        if role is None:
            raise NotFound(f"there is no role {found[2]} in account {found[1]}")
        return Caller(
            PrincipalType.ASSUMED_ROLE,
            arn
            if found.re is _SESSION
            else f"{arn.replace(':iam:', ':sts:').replace(':role/', ':assumed-role/')}/{session}",
            role.account,
            f"{role.role_id}:{session}",
            role_arn=role.arn,
            tags=role.tags,
            identity_policies=tuple(role.policies.values()),
        )
    if _SERVICE.fullmatch(arn):
        return Caller(PrincipalType.SERVICE, arn, "", arn)
    raise WrongUsage(f"{arn} is not the ARN of a principal, such as arn:aws:iam::000000000000:user/alice")


def _print(considered: StatementTrace) -> None:
    sign = {True: "+", False: "-"}[considered.matched]
    print(f"{sign} {considered.source} ({considered.effect}){': ' + considered.note if considered.note else ''}")
    if len(considered.misses) == 1:
        print("    almost matched:", file=sys.stdout)
    for miss in considered.misses:
        print(f"    {miss.element}: wants {miss.expected}, request has {miss.actual}")
