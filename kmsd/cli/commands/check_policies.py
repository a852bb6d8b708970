"""`kmsd check`: mistakes in key policies, grants, roles and users.

Each policy is checked once, however many keys have it: most keys of an account have its default policy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from datetime import datetime, timedelta
from typing import Self

import msgspec

from kmsd.authz import actions, new_policy, policy_document
from kmsd.authz.circumstances import Circumstances
from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, AuthorizationRequest
from kmsd.cli.commands.check_findings import FAIL, OK, WARN, Finding
from kmsd.config.sections import Config
from kmsd.daemon.issuers import issuer_arns, issuer_claims
from kmsd.domain.identity import Role, User
from kmsd.domain.key import Key
from kmsd.domain.policy import Effect, Policy, PolicyKind, Statement
from kmsd.domain.principal import Caller, PrincipalType, account_of
from kmsd.errors import MalformedPolicyDocumentException
from kmsd.ports import Reader

TOPIC = "policies"
PAGE = 1000
CLOCK_SLACK = timedelta(minutes=1)


class _Principals(msgspec.Struct):
    """The existing users and roles."""

    users: list[User]
    roles: list[Role]
    callers: list[Caller]
    arns: set[str]
    accounts: set[str]
    issuers: frozenset[str]
    """ARNs of configured issuers of web tokens."""

    @classmethod
    def of(cls, users: list[User], roles: list[Role], issuers: frozenset[str]) -> Self:
        """Collect ARNs, accounts and callers."""
        everyone: list[User | Role] = [*users, *roles]
        return cls(
            users=users,
            roles=roles,
            callers=[*map(_user_caller, users), *map(_role_caller, roles)],
            arns={one.arn for one in everyone},
            accounts={one.account for one in everyone},
            issuers=issuers,
        )

    def know(self, arn: str) -> bool:
        """True if a principal in a policy or grant exists. True for services, and for sessions of existing roles."""
        account = account_of(arn)
        if not account or arn.endswith(":root"):
            return not account or account in self.accounts
        if ":assumed-role/" in arn:
            role = arn.split("/")[1]
            return any(one.account == account and one.name == role for one in self.roles)
        return arn in self.arns


class _Group(msgspec.Struct):
    """Keys that share one policy."""

    first: Key
    count: int = 1

    def __str__(self) -> str:
        return self.first.arn if self.count == 1 else f"{self.first.arn} and {self.count - 1} more with its policy"


async def findings(reader: Reader, config: Config, now: datetime) -> AsyncIterator[Finding]:
    """Yield all findings; one `ok` line if there are none. The account of `config` is checked even without users."""
    account, claims = config.account, issuer_claims(config)
    people = _Principals.of(list(await reader.users()), list(await reader.roles()), issuer_arns(config))
    found = list(_account(account, people))
    groups: dict[tuple[str, str], _Group] = {}
    keys = 0
    async for key in all_keys(reader, people.accounts | {account}, now):
        keys += 1
        group = groups.get((key.account, key.policy))
        if group is None:
            groups[key.account, key.policy] = _Group(key)
        else:
            group.count += 1
        if key.created_at > now + CLOCK_SLACK:
            found.append(Finding(FAIL, "clock", f"{key.arn} was made in the future: the clock was set back"))
        found += [one async for one in _grants(reader, key, people)]
    for group in groups.values():
        found += _key_policy(group, people)
    for role in people.roles:
        found += _trust(role, people, claims)
    attached: list[User | Role] = [*people.users, *people.roles]
    for one in attached:
        found += _identity(one)
    for finding in found:
        yield finding
    if not found:
        yield Finding(OK, TOPIC, f"policies of {keys} keys and {len(people.roles)} roles: nothing to object to")


def _account(account: str, people: _Principals) -> Iterator[Finding]:
    """Warn if all users belong to another account than the configuration's: it was probably changed."""
    if people.users and account not in {user.account for user in people.users}:
        others = ", ".join(sorted({user.account for user in people.users}))
        text = f"account is {account} in the configuration, and all users belong to {others}: was it changed?"
        yield Finding(WARN, "configuration", f"{text} New keys belong to the account of the user who creates them")


async def all_keys(reader: Reader, accounts: set[str], now: datetime) -> AsyncIterator[Key]:
    """Yield the keys of these accounts."""
    for account in sorted(accounts):
        after = ""
        while names := await reader.key_names_after(account, after, PAGE, now):
            for key_id, _ in names:
                key = await reader.key(key_id)
                if key is not None:
                    yield key
            after = names[-1][0]


async def _grants(reader: Reader, key: Key, people: _Principals) -> AsyncIterator[Finding]:
    after = ""
    while grants := await reader.grants_of(key.key_id, after, PAGE):
        for grant in grants:
            if not people.know(grant.grantee_principal):
                who = grant.grantee_principal
                yield Finding(WARN, TOPIC, f"{key.arn}: grant {grant.grant_id} is for {who}, who does not exist")
        after = grants[-1].grant_id


def _key_policy(group: _Group, people: _Principals) -> Iterator[Finding]:
    key = group.first
    try:
        policy = policy_document.parse(key.policy, kind=PolicyKind.KEY)
    except MalformedPolicyDocumentException as exc:
        yield Finding(FAIL, TOPIC, f"{group}: the policy cannot be read: {exc.message}")
        return
    yield from _objections(str(group), policy)
    yield from _statements(str(group), policy, people)
    if not any(_may_change(key, caller) for caller in people.callers):
        root = Caller(PrincipalType.ACCOUNT, f"arn:{key.arn.split(':')[1]}:iam::{key.account}:root", key.account, "")
        if _may_change(key, root):
            text = "no user or role may change its policy: allow one kms:PutKeyPolicy"
        else:
            text = "no existing principal can ever change its policy: it locks everybody out"
        yield Finding(WARN, TOPIC, f"{group}: {text}")


def _objections(subject: str, policy: Policy, claims: Collection[str] = ()) -> Iterator[Finding]:
    """Report misspelt actions, and all that a new policy may not say: above all a Deny that never applies."""
    for sentence, place, problem in new_policy.objections(policy, claims):
        yield Finding(WARN, TOPIC, f"{subject}: {sentence} ({place} {problem})")
    for place, complaint in actions.complaints(policy):
        yield Finding(WARN, TOPIC, f"{subject}: {complaint} ({place})")


def _identity(subject: User | Role) -> Iterator[Finding]:
    """Check the policies that are attached to a user or role."""
    for name, text in subject.policies.items():
        place = f"{subject.arn}: policy {name}"
        try:
            policy = policy_document.parse(text, kind=PolicyKind.IDENTITY)
        except MalformedPolicyDocumentException as exc:
            yield Finding(FAIL, TOPIC, f"{place} cannot be read: {exc.message}")
            continue
        yield from _objections(place, policy)


def _may_change(key: Key, caller: Caller) -> bool:
    circumstances = Circumstances(key=key)
    query = AuthorizationRequest(
        caller,
        "kms:PutKeyPolicy",
        key.arn,
        key.account,
        resource_policy=key.policy,
        circumstances=circumstances,
    )
    return isinstance(authorize(query), Allowed)


def _statements(subject: str, policy: Policy, people: _Principals) -> Iterator[Finding]:
    for statement in policy.statements:
        if statement.effect is Effect.ALLOW and _to_everybody(statement):
            actions = ", ".join(statement.actions or ("all but some actions",))
            yield Finding(WARN, TOPIC, f"{subject}: statement {statement.label} allows everybody {actions}")
        if statement.principals is None:
            continue
        for arn in statement.principals.entities:
            if not people.know(arn):
                text = f"{subject}: statement {statement.label} names {arn}, who does not exist"
                yield Finding(WARN, TOPIC, f"{text}; it applies to any later principal of that name")
        for issuer in statement.principals.federated:
            if issuer not in people.issuers:
                text = f"{subject}: statement {statement.label} names the issuer {issuer}, which is not configured"
                yield Finding(WARN, TOPIC, text)
        for account in statement.principals.accounts:
            number = account_of(account) or account
            if number not in people.accounts:
                text = f"{subject}: statement {statement.label} names account {number}, which has no user or role"
                yield Finding(WARN, TOPIC, text)


def _to_everybody(statement: Statement) -> bool:
    """True if the statement applies to every principal of every account, without a condition."""
    principals = statement.principals
    open_to_all = principals is not None and (principals.everyone or statement.excludes_principals)
    return open_to_all and not statement.conditions


def _trust(role: Role, people: _Principals, claims: Collection[str]) -> Iterator[Finding]:
    try:
        policy = policy_document.parse(role.trust_policy, kind=PolicyKind.TRUST)
    except MalformedPolicyDocumentException as exc:
        yield Finding(FAIL, TOPIC, f"{role.arn}: the trust policy cannot be read: {exc.message}")
        return
    yield from _objections(f"{role.arn}: trust policy", policy, claims)
    yield from _statements(role.arn, policy, people)


def _user_caller(user: User) -> Caller:
    policies = tuple(user.policies.values())
    return Caller(
        PrincipalType.USER,
        user.arn,
        user.account,
        user.user_id,
        user_name=user.name,
        tags=user.tags,
        identity_policies=policies,
    )


def _role_caller(role: Role) -> Caller:
    session = role.arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/check"
    policies = tuple(role.policies.values())
    return Caller(
        PrincipalType.ASSUMED_ROLE,
        session,
        role.account,
        f"{role.role_id}:check",
        role_arn=role.arn,
        tags=role.tags,
        identity_policies=policies,
    )
