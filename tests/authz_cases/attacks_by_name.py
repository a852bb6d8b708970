"""Attempts to get more than is due: by names, other accounts, services, claims and look-alikes."""

from __future__ import annotations

from kmsd.authz.request import AuthorizationRequest
from tests.authz_cases import grants, principals
from tests.authz_cases.support import (
    ALICE,
    APP,
    LOGS,
    MAY_ALL,
    ROOT,
    S1,
    A,
    B,
    C,
    Case,
    allow,
    ask,
    policy,
    root,
    service,
    session,
    user,
    when,
)

LOGS_GUIDE = "CloudWatch Logs User Guide, Encrypt log data"
KMS = "KMS Developer Guide, AWS KMS condition keys"
RESOURCE = "IAM User Guide, IAM JSON policy elements: Resource"
OPERATORS = "IAM User Guide, IAM JSON policy elements: Condition operators"
VARIABLES = "IAM User Guide, IAM policy elements: Variables and tags"

CONTEXT = "kms:EncryptionContext:Department"
GROUP = f"arn:aws:logs:us-east-1:{A}:log-group:app"
PINNED = policy(
    allow({"Service": LOGS}, Condition={"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": GROUP}}),
    allow(ROOT),
)
IT, BOTH = grants.IT, grants.BOTH
KELVIN, CYRILLIC_A, FULL_WIDTH_I = "\u212a", "\u0430", "\uff29"


def attack(name: str, expect: str, rule: str, page: str, query: AuthorizationRequest) -> Case:
    """A case that is an attempt."""
    return Case(name, expect, rule, page, query, attack=True)


CASES = [
    # Names that begin alike, or differ in case
    attack("al for alice", "resource", principals.USER, principals.PRINCIPAL, ask(user("al"), policy(allow(ALICE)))),
    attack(
        "alice2 for alice", "resource", principals.USER, principals.PRINCIPAL, ask(user("alice2"), policy(allow(ALICE)))
    ),
    attack(
        "Alice for alice", "resource", principals.CASE, principals.PRINCIPAL, ask(user("Alice"), policy(allow(ALICE)))
    ),
    attack(
        "user of a role's name", "resource", principals.ROLE, principals.PRINCIPAL, ask(user("app"), policy(allow(APP)))
    ),
    attack(
        "role of a user's name",
        "resource",
        principals.USER,
        principals.PRINCIPAL,
        ask(session("alice"), policy(allow(ALICE))),
    ),
    attack(
        "path as prefix", "resource", principals.USER, principals.PRINCIPAL, ask(user("alice/x"), policy(allow(ALICE)))
    ),
    attack(
        "role with a path of the same name",
        "resource",
        principals.ROLE,
        principals.PRINCIPAL,
        ask(session("evil/app"), policy(allow(APP))),
    ),
    attack(
        "session named as another role's",
        "resource",
        principals.SESSION,
        principals.PRINCIPAL,
        ask(session("ap", "p-s1"), policy(allow(S1))),
    ),
    attack(
        "session name of another role",
        "resource",
        principals.SESSION,
        principals.PRINCIPAL,
        ask(session("admin", "s1"), policy(allow(S1))),
    ),
    attack(
        "session whose name is a user",
        "resource",
        principals.USER,
        principals.PRINCIPAL,
        ask(session("app", "alice"), policy(allow(ALICE))),
    ),
    attack(
        "role session under a user's aws:username",
        "resource",
        "aws:username is not there for a session.",
        VARIABLES,
        when({"StringEquals": {"aws:username": "alice"}}, caller=session("app", "alice")),
    ),
    # Other accounts
    attack(
        "same user name elsewhere",
        "resource",
        principals.USER,
        principals.PRINCIPAL,
        ask(user("alice", MAY_ALL, account=B), policy(allow(ALICE))),
    ),
    attack(
        "same role elsewhere",
        "resource",
        principals.ROLE,
        principals.PRINCIPAL,
        ask(session("app", "s1", MAY_ALL, account=B), policy(allow(APP))),
    ),
    attack("root of another account", "resource", principals.ACCOUNT, principals.PRINCIPAL, ask(root(B))),
    attack(
        "administrator of another account",
        "resource",
        "Identity policies give nothing on other accounts' keys.",
        "IAM User Guide, Cross-account policy evaluation logic",
        ask(user("admin", policy(allow(None, "*")), account=C)),
    ),
    attack(
        "alias of another account ending like ours",
        "identity",
        "A wildcard in the middle of an ARN stays within its part.",
        RESOURCE,
        ask(
            user("alice", policy(allow(None, "kms:*", f"arn:aws:kms:*:{A}:alias/app")), account=B),
            None,
            "CreateAlias",
            resource=f"arn:aws:kms:us-east-1:{B}:alias/x:{A}:alias/app",
            account=B,
        ),
    ),
    attack(
        "partition of another cloud",
        "resource",
        principals.ACCOUNT,
        principals.PRINCIPAL,
        ask(user("alice", MAY_ALL), policy(allow(f"arn:aws-cn:iam::{A}:root"))),
    ),
    # Confused deputies
    attack(
        "log group of another account",
        "resource",
        "The encryption context names the log group.",
        LOGS_GUIDE,
        ask(service(account=B), PINNED, context={"aws:logs:arn": GROUP.replace(A, B)}),
    ),
    attack(
        "log group that begins alike",
        "resource",
        "The encryption context names the log group.",
        LOGS_GUIDE,
        ask(service(), PINNED, context={"aws:logs:arn": GROUP + "2"}),
    ),
    attack(
        "service without context",
        "resource",
        "The encryption context names the log group.",
        LOGS_GUIDE,
        ask(service(), PINNED),
    ),
    attack(
        "user with the service's context",
        "identity",
        principals.SERVICE,
        LOGS_GUIDE,
        ask(user(), PINNED, context={"aws:logs:arn": GROUP}),
    ),
    attack("service by its account's delegation", "resource", principals.ACCOUNT, LOGS_GUIDE, ask(service())),
    attack(
        "service for another account",
        "resource",
        "aws:SourceAccount is the account for which a service acts.",
        KMS,
        ask(
            service(account=B),
            policy(allow({"Service": LOGS}, Condition={"StringEquals": {"aws:SourceAccount": A}})),
            given={"aws:SourceAccount": A},
        ),
    ),
    attack(
        "service under everyone, for another account",
        "resource",
        "kms:CallerAccount is whom the service acts for.",
        KMS,
        ask(service(account=B), policy(allow({"AWS": "*"}, Condition={"StringEquals": {"kms:CallerAccount": A}}))),
    ),
    attack(
        "direct call where a service is meant",
        "resource",
        "kms:ViaService is there when a service makes the request.",
        KMS,
        when({"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}),
    ),
    # What the request says of the caller
    attack(
        "claiming to be another principal",
        "resource",
        "aws:PrincipalArn follows from the caller.",
        KMS,
        when(
            {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{A}:user/admin"}},
            aws__PrincipalArn=f"arn:aws:iam::{A}:user/admin",
        ),
    ),
    attack(
        "claiming a tag",
        "resource",
        "aws:PrincipalTag follows from the caller.",
        KMS,
        when({"StringEquals": {"aws:PrincipalTag/team": "red"}}, aws__PrincipalTag___team="red"),
    ),
    attack(
        "claiming a context",
        "resource",
        "kms:EncryptionContext follows from the request's context.",
        KMS,
        when({"StringEquals": {CONTEXT: "IT"}}, kms__EncryptionContext__Department="IT"),
    ),
    attack(
        "claiming an account",
        "resource",
        "kms:CallerAccount follows from the caller.",
        KMS,
        when({"StringEquals": {"kms:CallerAccount": B}}, kms__CallerAccount=B),
    ),
    # Look-alikes and decoys
    attack(
        "Kelvin sign in a value",
        "resource",
        "Disregarding case makes no look-alikes equal.",
        OPERATORS,
        when({"StringEqualsIgnoreCase": {CONTEXT: "kernel"}}, context={"Department": KELVIN + "ernel"}),
    ),
    attack(
        "Kelvin sign in a context key",
        "resource",
        "Disregarding case makes no look-alikes equal.",
        KMS,
        when({"StringEquals": {"kms:EncryptionContext:key": "v"}}, context={KELVIN + "ey": "v"}),
    ),
    attack(
        "Cyrillic letter",
        "resource",
        "StringEquals is exact.",
        OPERATORS,
        when({"StringEquals": {CONTEXT: "a"}}, context={"Department": CYRILLIC_A}),
    ),
    attack(
        "full-width letter",
        "resource",
        "Disregarding case makes no look-alikes equal.",
        OPERATORS,
        when({"StringEqualsIgnoreCase": {CONTEXT: "IT"}}, context={"Department": FULL_WIDTH_I + "T"}),
    ),
    attack(
        "decoy key beside the true one, allow",
        "resource",
        "Keys are compared without case: both values count.",
        KMS,
        when({"StringEquals": {CONTEXT: "IT"}}, context={"Department": "HR", "department": "IT"}),
    ),
    attack(
        "decoy key beside the true one, deny",
        "explicit",
        "Keys are compared without case: both values count.",
        KMS,
        when({"StringEquals": {CONTEXT: "IT"}}, effect="Deny", context={"Department": "HR", "DEPARTMENT": "IT"}),
    ),
    attack(
        "decoy key, negated allow",
        "resource",
        "Keys are compared without case: both values count.",
        KMS,
        when({"StringNotEquals": {CONTEXT: "IT"}}, context={"Department": "HR", "department": "IT"}),
    ),
    attack(
        "trailing newline",
        "resource",
        "StringEquals is exact.",
        OPERATORS,
        when({"StringEquals": {CONTEXT: "IT"}}, context={"Department": "IT\n"}),
    ),
    attack(
        "NUL",
        "resource",
        "StringEquals is exact.",
        OPERATORS,
        when({"StringEquals": {CONTEXT: "IT"}}, context={"Department": "IT\0"}),
    ),
]
