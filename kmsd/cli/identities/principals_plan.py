"""Plan for users and roles: how what is in the store becomes what is in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from kmsd.cli.identities.change import CREATE, DELETE, UPDATE, Change
from kmsd.cli.identities.document import Document, Policy, RoleEntry, UserEntry, is_same, text_of
from kmsd.custody import provisioning
from kmsd.domain.arn import ArnScope
from kmsd.domain.identity import Role, User
from kmsd.exit_codes import InputRefused
from kmsd.ports import Reader, Transaction


async def plan(reader: Reader, wanted: Document, arns: ArnScope, now: datetime, *, prune: bool) -> list[Change]:
    """Return the changes. With `prune`, users and roles that the file lacks are deleted. Raises `InputRefused`."""
    users = {(one.account, one.name): one for one in await reader.users()}
    roles = {(one.account, one.name): one for one in await reader.roles()}
    changes: list[Change] = []
    for user in wanted.users:
        present = users.pop((user.account, user.name), None)
        changes += [_new_user(user, arns, now)] if present is None else _changed_user(present, user)
    for role in wanted.roles:
        known = roles.pop((role.account, role.name), None)
        changes += [_new_role(role, arns, now)] if known is None else _changed_role(known, role)
    if prune:
        if users and not wanted.users:
            raise InputRefused("--prune would delete every user: the file must name those that stay")
        changes += [_deleted_user(one) for one in users.values()]
        changes += [_deleted_role(one) for one in roles.values()]
    return changes


def _texts(policies: Mapping[str, Policy]) -> dict[str, str]:
    return {name: text_of(policy) for name, policy in policies.items()}


def _differ(present: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """True if two sets of policies are not the same documents under the same names."""
    return present.keys() != wanted.keys() or not all(is_same(present[name], text) for name, text in wanted.items())


def _new_user(user: UserEntry, arns: ArnScope, now: datetime) -> Change:
    policies = _texts(user.policies)
    made = provisioning.new_user(arns, user.account, user.name, policies, now, tags=user.tags)

    async def make(transaction: Transaction) -> None:
        await transaction.insert_account(user.account, now)
        await transaction.insert_user(made)

    parameters = {"userName": user.name, "policies": policies, "tags": user.tags or None}
    return Change(CREATE, f"user {made.arn}", "CreateUser", parameters, make, user.account)


def _changed_user(present: User, user: UserEntry) -> Iterator[Change]:
    policies, key = _texts(user.policies), (user.account, user.name)
    if _differ(present.policies, policies):
        parameters = {"userName": user.name, "policies": policies}
        make = partial(_call, "put_user_policies", (*key, policies))
        yield Change(UPDATE, f"user {present.arn}: policies", "PutUserPolicy", parameters, make, user.account)
    if dict(present.tags) != user.tags:
        make = partial(_call, "put_user_tags", (*key, user.tags))
        parameters = {"userName": user.name, "tags": user.tags}
        yield Change(UPDATE, f"user {present.arn}: tags", "TagUser", parameters, make, user.account)


def _deleted_user(user: User) -> Change:
    make = partial(_call, "delete_user", (user.account, user.name))
    text = f"user {user.arn}, with its access keys"
    return Change(DELETE, text, "DeleteUser", {"userName": user.name}, make, user.account)


def _new_role(role: RoleEntry, arns: ArnScope, now: datetime) -> Change:
    policies = _texts(role.policies)
    made = provisioning.new_role(
        arns,
        role.account,
        role.name,
        trust_policy=text_of(role.trust),
        policies=policies,
        seconds=role.max_session_seconds,
        now=now,
        tags=role.tags,
    )

    async def make(transaction: Transaction) -> None:
        await transaction.insert_account(role.account, now)
        await transaction.insert_role(made)

    parameters = {
        "roleName": role.name,
        "assumeRolePolicyDocument": made.trust_policy,
        "policies": policies,
        "maxSessionDuration": role.max_session_seconds,
        "tags": role.tags or None,
    }
    return Change(CREATE, f"role {made.arn}", "CreateRole", parameters, make, role.account)


def _changed_role(present: Role, role: RoleEntry) -> Iterator[Change]:
    policies, trust, key = _texts(role.policies), text_of(role.trust), (role.account, role.name)

    def change(what: str, event: str, method: str, value: Any, member: str) -> Change:
        parameters = {"roleName": role.name, member: value}
        make = partial(_call, method, (*key, value))
        return Change(UPDATE, f"role {present.arn}: {what}", event, parameters, make, role.account)

    if not is_same(present.trust_policy, trust):
        yield change("trust policy", "UpdateAssumeRolePolicy", "put_trust_policy", trust, "policyDocument")
    if _differ(present.policies, policies):
        yield change("policies", "PutRolePolicy", "put_role_policies", policies, "policies")
    if present.max_session_seconds != role.max_session_seconds:
        seconds = role.max_session_seconds
        yield change("max_session_seconds", "UpdateRole", "set_role_session_seconds", seconds, "maxSessionDuration")
    if dict(present.tags) != role.tags:
        yield change("tags", "TagRole", "put_role_tags", role.tags, "tags")


def _deleted_role(role: Role) -> Change:
    make = partial(_call, "delete_role", (role.account, role.name))
    return Change(DELETE, f"role {role.arn}", "DeleteRole", {"roleName": role.name}, make, role.account)


async def _call(method: str, arguments: Sequence[Any], transaction: Transaction) -> None:
    await getattr(transaction, method)(*arguments)
