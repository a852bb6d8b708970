"""Random questions to the evaluators, biased to near misses: a small world in which everything almost fits."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kmsd.authz.request import AuthorizationRequest
from kmsd.domain.grant import Grant
from kmsd.domain.principal import Caller, PrincipalType

if TYPE_CHECKING:
    from random import Random

A, B = "111122223333", "444455556666"
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "1234abcd-12ab-34cd-56ef-1234567890ac"
ARN = f"arn:aws:kms:us-east-1:{A}:key/{KEY}"
LOGS = "logs.us-east-1.amazonaws.com"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OPERATIONS = ["Encrypt", "Decrypt", "GenerateDataKey", "ReEncryptFrom", "CreateGrant", "DescribeKey", "PutKeyPolicy"]
CONTEXTS: list[dict[str, str]] = [
    {},
    {"Department": "IT"},
    {"Department": "it"},
    {"department": "IT"},
    {"Department": "IT", "Purpose": "Test"},
    {"Department": "IT", "department": "HR"},
    {"Purpose": ""},
    {"aws:logs:arn": f"arn:aws:logs:us-east-1:{A}:log-group:app"},
]


def callers() -> list[Caller]:
    """Everyone in the world, without policies."""
    everyone = []
    for account in (A, B):
        for name in ("alice", "al", "bob"):
            arn = f"arn:aws:iam::{account}:user/{name}"
            tags = {"team": name} if name != "al" else {"Team": "IT", "x": "*"}
            everyone.append(Caller(PrincipalType.USER, arn, account, f"AIDA{name.upper()}", user_name=name, tags=tags))
        for session in ("s1", "s2"):
            arn = f"arn:aws:sts::{account}:assumed-role/app/{session}"
            role = f"arn:aws:iam::{account}:role/app"
            who = Caller(PrincipalType.ASSUMED_ROLE, arn, account, f"AROA:{session}", role_arn=role, issued_at=NOW)
            everyone += [who, who]
        everyone.append(Caller(PrincipalType.ACCOUNT, f"arn:aws:iam::{account}:root", account, account))
    everyone.append(Caller(PrincipalType.SERVICE, LOGS, A, ""))
    return everyone


CALLERS = callers()
PRINCIPALS = sorted({c.arn for c in CALLERS if c.arn != LOGS} | {c.role_arn for c in CALLERS if c.role_arn} | {A, B})

CONDITIONS: list[tuple[list[str], list[str], list[Any]]] = [
    (
        ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase"],
        ["kms:EncryptionContext:Department", "kms:encryptioncontext:department", "kms:EncryptionContext:Purpose"],
        [
            "IT",
            "it",
            "I?",
            "*",
            "Test",
            "${aws:PrincipalTag/team}",
            "${aws:PrincipalTag/team, 'IT'}",
            "${aws:PrincipalTag/x}",
            "",
        ],
    ),
    (
        ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringNotEqualsIgnoreCase"],
        ["kms:EncryptionContextKeys", "aws:TagKeys", "kms:GrantOperations"],
        ["Department", "department", "D*", "Purpose", "Decrypt", "Encrypt"],
    ),
    (
        ["StringEquals", "StringNotEquals", "StringLike"],
        ["kms:CallerAccount", "aws:PrincipalType", "aws:username", "AWS:UserName", "aws:PrincipalIsAWSService"],
        [A, B, "User", "AssumedRole", "alice", "al*", "true", "${aws:username}", "${kms:EncryptionContext:Purpose}"],
    ),
    (
        ["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"],
        ["aws:PrincipalArn", "kms:GranteePrincipal"],
        [f"arn:aws:iam::{A}:user/al*", f"arn:aws:iam::{A}:role/app", "arn:aws:iam::*:user/${aws:username}"],
    ),
    (
        ["NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericGreaterThanEquals"],
        ["kms:ScheduleKeyDeletionPendingWindowInDays", "kms:EncryptionContext:Department"],
        [7, "30", 7.5],
    ),
    (
        ["DateEquals", "DateNotEquals", "DateLessThan", "DateGreaterThan", "DateLessThanEquals"],
        ["aws:CurrentTime", "aws:TokenIssueTime", "kms:ValidTo"],
        ["2026-01-02T03:04:05Z", "2025-12-31", "1767323045", "2026-01-02T04:04:05+01:00"],
    ),
    (["Bool"], ["kms:GrantIsForAWSResource", "aws:SecureTransport", "kms:ViaService"], [True, "false", "True"]),
    (["IpAddress", "NotIpAddress"], ["aws:SourceIp"], ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32", "0.0.0.0/0"]),
    (["BinaryEquals"], ["kms:EncryptionContext:Purpose", "kms:RequestAlias"], ["VGVzdA==", "VGVzdDI="]),
    (["Null"], ["aws:TokenIssueTime", "kms:EncryptionContextKeys", "kms:EncryptionContext:Purpose"], [True, "false"]),
]


def some(random: Random, values: list[Any], most: int = 2) -> Any:
    """One of the values, or a short list of them."""
    if random.random() < 0.5:
        return random.choice(values)
    return random.sample(values, random.randint(1, min(most, len(values))))


def condition_block(random: Random) -> dict[str, dict[str, Any]]:
    """One or two conditions."""
    block: dict[str, dict[str, Any]] = {}
    for _ in range(random.choice((1, 1, 2))):
        operators, keys, values = random.choice(CONDITIONS)
        operator = random.choice(operators)
        if operator != "Null":
            if random.random() < 0.2:
                operator = random.choice(("ForAllValues:", "ForAnyValue:")) + operator
            if random.random() < 0.2:
                operator += "IfExists"
        key = random.choice(keys)
        if operator.startswith("ForAllValues:") and key.lower().startswith("kms:encryptioncontext:"):
            key = "kms:EncryptionContextKeys"
            operator = "ForAllValues:StringLike"
            values = ["D*", "Purpose"]
        block.setdefault(operator, {})[key] = some(random, values)
    return block


def principal(random: Random, caller: Caller) -> Any:
    """A Principal map; often one that names the caller."""
    roll = random.random()
    if roll < 0.08:
        return "*"
    if roll < 0.16:
        return {"Service": random.choice((LOGS, "logs.eu-west-1.amazonaws.com"))}
    near = [caller.role_arn or caller.arn, caller.arn, f"arn:aws:iam::{caller.account}:root", caller.account]
    near = [name for name in near if name != LOGS] or [A]
    pool = near * 4 + PRINCIPALS
    named: dict[str, Any] = {"AWS": random.choice(pool) if roll < 0.6 else random.sample(pool, random.randint(1, 4))}
    if caller.arn == LOGS:
        named["Service"] = LOGS
    return named


def statement(random: Random, caller: Caller, action: str, *, with_principal: bool) -> dict[str, Any]:
    """One statement."""
    wild = action[:-3] + "*"
    actions = ["kms:*", "*", action, action.upper().replace("KMS", "kms"), wild, "kms:Encrypt", "kms:?ecrypt", "sts:*"]
    resources = ["*", ARN, ARN[:-1] + "?", f"arn:aws:kms:*:{A}:key/*", ARN.replace(A, B), "arn:aws:kms:*"]
    resources += [f"arn:aws:kms:us-east-1:{A}:key/${{aws:PrincipalTag/team}}", f"arn:aws:kms:*:*:*/{KEY}"]
    written: dict[str, Any] = {"Effect": "Allow" if random.random() < 0.9 else "Deny"}
    if with_principal:
        written["Principal" if random.random() < 0.88 else "NotPrincipal"] = principal(random, caller)
    if random.random() < 0.98 or not with_principal:
        written["Action" if random.random() < 0.92 else "NotAction"] = some(random, actions[:5] * 2 + actions)
    if random.random() < 0.98 or not with_principal:
        written["Resource" if random.random() < 0.93 else "NotResource"] = some(random, ["*"] * 4 + resources)
    if random.random() < 0.3:
        written["Condition"] = condition_block(random)
    return written


def document(random: Random, caller: Caller, action: str, *, with_principal: bool) -> str:
    """A policy of one to four statements."""
    version = random.choice(("2012-10-17",) * 5 + ("2008-10-17",))
    listed = [
        statement(random, caller, action, with_principal=with_principal)
        for _ in range(random.choice((1, 1, 2, 2, 3, 4)))
    ]
    written: dict[str, Any] = {"Version": version, "Statement": listed}
    if version == "2008-10-17" and random.random() < 0.5:
        del written["Version"]
    return json.dumps(written)


def grants(random: Random, caller: Caller, action: str, context: dict[str, str]) -> tuple[Grant, ...]:
    """Up to twenty grants, most of which nearly fit."""
    made = []
    for number in range(random.choice((0, 0, 0, 1, 2, 20))):
        operation = action.removeprefix("kms:")
        pool = [operation, *OPERATIONS[:6], "RetireGrant"]
        grantee = random.choice((caller.arn, caller.arn, caller.role_arn or caller.arn, *PRINCIPALS))
        constraint = random.choice((context, *CONTEXTS))
        equals, subset = random.choice(((None, None), (constraint, None), (None, constraint)))
        made.append(
            Grant(
                grant_id=f"{number:064x}",
                key_id=KEY if random.random() < 0.9 else OTHER_KEY,
                name=None,
                grantee_principal=grantee,
                retiring_principal=None,
                operations=tuple(random.sample(pool, random.randint(1, 3))),
                encryption_context_equals=equals,
                encryption_context_subset=subset,
                issuing_account=A,
                issuing_principal=f"arn:aws:iam::{A}:root",
                created_at=NOW,
            )
        )
    return tuple(made)


def question(random: Random) -> AuthorizationRequest:
    """A caller with policies, a key with policy and grants, and a request."""
    nobody = random.choice(CALLERS)
    action = "kms:" + random.choice(OPERATIONS)
    context = random.choice(CONTEXTS)
    identity = [document(random, nobody, action, with_principal=False) for _ in range(random.choice((0, 1, 1, 2)))]
    bound = None
    if nobody.principal_type is PrincipalType.ASSUMED_ROLE and random.random() < 0.4:
        bound = tuple(
            document(random, nobody, action, with_principal=False) for _ in range(random.choice((0, 1, 1, 2)))
        )
    caller = Caller(
        nobody.principal_type,
        nobody.arn,
        nobody.account,
        nobody.principal_id,
        user_name=nobody.user_name,
        role_arn=nobody.role_arn,
        issued_at=nobody.issued_at,
        tags=nobody.tags,
        identity_policies=() if nobody.arn == LOGS else tuple(identity),
        session_policies=bound,
    )
    policy = None if random.random() < 0.03 else document(random, nobody, action, with_principal=True)
    return AuthorizationRequest(
        caller,
        action,
        ARN,
        A,
        policy,
        grants(random, nobody, action, context),
        context,
        conditions(random),
    )


def conditions(random: Random) -> dict[str, str | tuple[str, ...]]:
    """What the request brings."""
    everything: dict[str, list[str | tuple[str, ...]]] = {
        "kms:ViaService": ["ec2.us-east-1.amazonaws.com", "True"],
        "aws:SourceIp": ["10.1.2.3", "192.0.2.1", "2001:db8::1", "AWS Internal"],
        "aws:CurrentTime": ["2026-01-02T03:04:05Z", "2026-06-01T00:00:00Z"],
        "aws:SecureTransport": ["true", "false"],
        "kms:GrantIsForAWSResource": ["true", "false"],
        "kms:GrantOperations": [("Decrypt",), ("Decrypt", "Encrypt"), ()],
        "kms:GranteePrincipal": [f"arn:aws:iam::{A}:user/alice", LOGS],
        "aws:TagKeys": [("Department",), ("Department", "Purpose"), ("",)],
        "kms:ScheduleKeyDeletionPendingWindowInDays": ["7", "30", "x"],
        "kms:ValidTo": ["1767323045", "2026"],
        "kms:RequestAlias": ["Test", "VGVzdA=="],
    }
    return {key: random.choice(values) for key, values in everything.items() if random.random() < 0.5}
