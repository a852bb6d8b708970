"""Short constructors for the table of authorisation cases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from kmsd.authz.request import AuthorizationRequest
from kmsd.domain.grant import Grant
from kmsd.domain.principal import Caller, PrincipalType

A, B, C = "111122223333", "444455556666", "777788889999"
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = f"arn:aws:kms:us-east-1:{A}:key/{KEY_ID}"
LOGS = "logs.us-east-1.amazonaws.com"
ROOT = f"arn:aws:iam::{A}:root"
ROOT_B = f"arn:aws:iam::{B}:root"
ALICE = f"arn:aws:iam::{A}:user/alice"
APP = f"arn:aws:iam::{A}:role/app"
S1 = f"arn:aws:sts::{A}:assumed-role/app/s1"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """One question with its answer."""

    name: str
    expect: str
    """`allow`, `explicit`, `resource`, `identity`, `session`; or `by:` and what `Allowed.by` must be."""
    rule: str
    """The rule of the documentation that decides it, in our words."""
    page: str
    """The page of the documentation that says so."""
    query: AuthorizationRequest
    attack: bool = False
    """An attempt to get more than is due."""


def user(name: str = "alice", *policies: str, account: str = A, **tags: str) -> Caller:
    """An IAM user."""
    arn = f"arn:aws:iam::{account}:user/{name}"
    plain = name.rpartition("/")[2]
    return Caller(
        PrincipalType.USER, arn, account, f"AIDA{plain.upper()}", user_name=plain, identity_policies=policies, tags=tags
    )


def session(
    role: str = "app", name: str = "s1", *policies: str, account: str = A, bound: tuple[str, ...] | None = None
) -> Caller:
    """A session of a role."""
    return Caller(
        PrincipalType.ASSUMED_ROLE,
        f"arn:aws:sts::{account}:assumed-role/{role.rpartition('/')[2]}/{name}",
        account,
        f"AROA{role.upper()}:{name}",
        role_arn=f"arn:aws:iam::{account}:role/{role}",
        issued_at=NOW,
        identity_policies=policies,
        session_policies=bound,
    )


def root(account: str = A) -> Caller:
    """The root user of an account."""
    return Caller(PrincipalType.ACCOUNT, f"arn:aws:iam::{account}:root", account, account)


def service(name: str = LOGS, account: str = A) -> Caller:
    """A service that acts for an account."""
    return Caller(PrincipalType.SERVICE, name, account, "")


def says(effect: str, who: Any = None, action: Any = "kms:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    """A statement; `who`: an ARN, a list, a map, or None for none. `None` takes an element away, names add others."""
    written: dict[str, Any] = {"Effect": effect}
    if who is not None:
        written["Principal"] = who if isinstance(who, dict) or who == "*" else {"AWS": who}
    written |= {"Action": action, "Resource": resource} | more
    return {name: value for name, value in written.items() if value is not None}


def allow(who: Any = None, action: Any = "kms:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    """An Allow statement."""
    return says("Allow", who, action, resource, **more)


def deny(who: Any = None, action: Any = "kms:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    """A Deny statement."""
    return says("Deny", who, action, resource, **more)


def policy(*statements: dict[str, Any], version: str | None = "2012-10-17") -> str:
    """A policy document."""
    written: dict[str, Any] = {} if version is None else {"Version": version}
    return json.dumps(written | {"Statement": list(statements)})


DELEGATING = policy(allow(ROOT))
"""The default key policy's statement."""
MAY_ALL = policy(allow())
"""An identity policy that allows all of KMS."""
CLOSED = policy(allow(f"arn:aws:iam::{A}:user/nobody-here"))
"""A key policy that neither names the usual callers nor delegates."""


def ask(
    caller: Caller,
    key_policy: str | None = DELEGATING,
    operation: str = "Encrypt",
    *,
    resource: str = KEY,
    account: str = A,
    grants: tuple[Grant, ...] = (),
    context: dict[str, str] | None = None,
    given: dict[str, str | tuple[str, ...]] | None = None,
) -> AuthorizationRequest:
    """A question."""
    action = operation if ":" in operation else f"kms:{operation}"
    return AuthorizationRequest(caller, action, resource, account, key_policy, grants, context or {}, given or {})


def grant(
    to: str,
    *operations: str,
    equals: dict[str, str] | None = None,
    subset: dict[str, str] | None = None,
    **more: Any,
) -> Grant:
    """A grant on the key."""
    made = Grant(
        grant_id="ab" * 32,
        key_id=KEY_ID,
        name=None,
        grantee_principal=to,
        retiring_principal=None,
        operations=operations or ("Encrypt", "Decrypt"),
        encryption_context_equals=equals,
        encryption_context_subset=subset,
        issuing_account=A,
        issuing_principal=ROOT,
        created_at=NOW,
    )
    return replace(made, **more)


def when(
    block: dict[str, Any],
    *,
    effect: str = "Allow",
    context: dict[str, str] | None = None,
    caller: Caller | None = None,
    version: str = "2012-10-17",
    **given: Any,
) -> AuthorizationRequest:
    """Alice asks for Encrypt under a statement with this Condition: the only Allow, or a Deny beside an Allow.

    `given` are condition keys, with `__` for the colon and `___` for the slash.
    """
    who = caller or user()
    name = who.role_arn or who.arn
    statements = [says(effect, name, Condition=block)]
    if effect == "Deny":
        statements.append(allow(name))
    brought = {key.replace("___", "/").replace("__", ":"): value for key, value in given.items()}
    return ask(who, policy(*statements, version=version), context=context, given=brought)
