"""Grants."""

from __future__ import annotations

from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    KEY_ID,
    LOGS,
    MAY_ALL,
    ROOT,
    S1,
    A,
    B,
    Case,
    allow,
    ask,
    deny,
    grant,
    policy,
    root,
    service,
    session,
    user,
)

GRANTS = "KMS Developer Guide, Grants in AWS KMS"
CREATING = "KMS Developer Guide, Creating grants"
CONSTRAINTS = "KMS API Reference, GrantConstraints"
TROUBLE = "KMS Developer Guide, Troubleshooting key access"
EVALUATION = "IAM User Guide, Policy evaluation logic"

ALLOWS = "A grant allows its grantee its operations; the grantee shows no token once it is known."
ONLY = "A grant allows the operations that it lists and no others."
WHO = "A grant is for its grantee alone."
ROLE = "A grant to a role is for the sessions of the role."
ADDS = "Grants allow beside key policy and identity policies; any one of them is enough."
DENY = "Grants never deny, and never outweigh a Deny."
EQUALS = "EncryptionContextEquals: the request's context is exactly the constraint's, in any order."
SUBSET = "EncryptionContextSubset: the request's context has all pairs of the constraint, and may have more."
UNCONSTRAINED = "Constraints are not applied to operations without an encryption context, such as DescribeKey."
BOUND = "Session policies bound what a grant to the role gives a session; a grant to the session itself is direct."
ACROSS = "A key of another account can be used and trusted by a grant alone."
HALVES = "ReEncryptFrom and ReEncryptTo are operations of their own."

BOB_B = f"arn:aws:iam::{B}:user/bob"
IT = {"Department": "IT"}
BOTH = {"Department": "IT", "Purpose": "Test"}
NOTHING = policy(allow(None, "s3:*"))
TO_ALICE = (grant(ALICE),)

CASES = [
    Case("to a user", f"by:grant:{'ab' * 32}", ALLOWS, GRANTS, ask(user(), CLOSED, grants=TO_ALICE)),
    Case("operation not listed", "resource", ONLY, GRANTS, ask(user(), CLOSED, "DescribeKey", grants=TO_ALICE)),
    Case("to another user", "resource", WHO, GRANTS, ask(user("bob"), CLOSED, grants=TO_ALICE)),
    Case("to the role", "allow", ROLE, GRANTS, ask(session(), CLOSED, grants=(grant(APP),))),
    Case("to the session", "allow", WHO, GRANTS, ask(session(), CLOSED, grants=(grant(S1),))),
    Case("to another session", "resource", WHO, GRANTS, ask(session("app", "s2"), CLOSED, grants=(grant(S1),))),
    Case("to a service", "allow", WHO, CREATING, ask(service(), CLOSED, grants=(grant(LOGS),))),
    Case("to the root", "allow", WHO, GRANTS, ask(root(), CLOSED, grants=(grant(ROOT),))),
    Case("beside an identity policy", "allow", ADDS, TROUBLE, ask(user("alice", NOTHING), grants=TO_ALICE)),
    Case(
        "policy allows, grant is not needed",
        "by:identity-policy:#0",
        ADDS,
        TROUBLE,
        ask(user("alice", MAY_ALL), grants=TO_ALICE),
    ),
    Case(
        "key policy denies", "explicit", DENY, TROUBLE, ask(user(), policy(allow(ROOT), deny(ALICE)), grants=TO_ALICE)
    ),
    Case(
        "key policy denies on a condition",
        "explicit",
        DENY,
        TROUBLE,
        ask(user(), policy(deny("*", Condition={"Null": {"kms:ViaService": "true"}})), grants=TO_ALICE),
    ),
    Case(
        "identity policy denies", "explicit", DENY, TROUBLE, ask(user("alice", policy(deny())), CLOSED, grants=TO_ALICE)
    ),
    Case(
        "session policy denies",
        "explicit",
        DENY,
        TROUBLE,
        ask(session(bound=(policy(deny()),)), CLOSED, grants=(grant(APP),)),
    ),
    Case(
        "equals",
        "allow",
        EQUALS,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, equals=BOTH),), context={"Purpose": "Test", "Department": "IT"}),
    ),
    Case(
        "equals, more given",
        "resource",
        EQUALS,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, equals=IT),), context=BOTH),
    ),
    Case(
        "equals, less given",
        "resource",
        EQUALS,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, equals=BOTH),), context=IT),
    ),
    Case(
        "equals, nothing given", "resource", EQUALS, CONSTRAINTS, ask(user(), CLOSED, grants=(grant(ALICE, equals=IT),))
    ),
    Case(
        "equals, value's case",
        "resource",
        EQUALS,
        CREATING,
        ask(user(), CLOSED, grants=(grant(ALICE, equals=IT),), context={"Department": "it"}),
    ),
    Case(
        "subset, the same",
        "allow",
        SUBSET,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, subset=IT),), context=IT),
    ),
    Case(
        "subset, more given",
        "allow",
        SUBSET,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, subset=IT),), context=BOTH),
    ),
    Case(
        "subset, nothing given", "resource", SUBSET, CONSTRAINTS, ask(user(), CLOSED, grants=(grant(ALICE, subset=IT),))
    ),
    Case(
        "subset, another value",
        "resource",
        SUBSET,
        CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, subset=IT),), context={"Department": "HR"}),
    ),
    Case(
        "second grant fits",
        "allow",
        ALLOWS,
        GRANTS,
        ask(user(), CLOSED, grants=(grant(ALICE, equals=IT), grant(ALICE, equals=BOTH)), context=BOTH),
    ),
    Case(
        "DescribeKey without context",
        "allow",
        UNCONSTRAINED,
        CONSTRAINTS,
        ask(user(), CLOSED, "DescribeKey", grants=(grant(ALICE, "DescribeKey", equals=IT),)),
    ),
    Case(
        "CreateGrant without context",
        "allow",
        UNCONSTRAINED,
        CONSTRAINTS,
        ask(user(), CLOSED, "CreateGrant", grants=(grant(ALICE, "CreateGrant", subset=IT),)),
    ),
    Case(
        "ReEncryptFrom is constrained",
        "resource",
        EQUALS,
        CONSTRAINTS,
        ask(user(), CLOSED, "ReEncryptFrom", grants=(grant(ALICE, "ReEncryptFrom", equals=IT),)),
    ),
    Case(
        "ReEncryptTo",
        "allow",
        HALVES,
        GRANTS,
        ask(user(), CLOSED, "ReEncryptTo", grants=(grant(ALICE, "ReEncryptTo"),)),
    ),
    Case(
        "ReEncryptFrom for ReEncryptTo",
        "resource",
        HALVES,
        GRANTS,
        ask(user(), CLOSED, "ReEncryptTo", grants=(grant(ALICE, "ReEncryptFrom"),)),
    ),
    Case("bound has it", "allow", BOUND, EVALUATION, ask(session(bound=(MAY_ALL,)), CLOSED, grants=(grant(APP),))),
    Case("bound lacks it", "session", BOUND, EVALUATION, ask(session(bound=(NOTHING,)), CLOSED, grants=(grant(APP),))),
    Case(
        "session itself, bound lacks it",
        "allow",
        BOUND,
        EVALUATION,
        ask(session(bound=(NOTHING,)), CLOSED, grants=(grant(S1),)),
    ),
    Case(
        "across, without identity policy",
        "allow",
        ACROSS,
        TROUBLE,
        ask(user("bob", account=B), CLOSED, grants=(grant(BOB_B),)),
    ),
    Case(
        "across, identity denies",
        "explicit",
        DENY,
        TROUBLE,
        ask(user("bob", policy(deny()), account=B), CLOSED, grants=(grant(BOB_B),)),
    ),
    Case(
        "across, session itself, bound lacks it",
        "session",
        BOUND,
        EVALUATION,
        ask(session(account=B, bound=(NOTHING,)), CLOSED, grants=(grant(S1.replace(A, B)),)),
    ),
    Case(
        "key named by ARN",
        "allow",
        ALLOWS,
        GRANTS,
        ask(user(), CLOSED, grants=(grant(ALICE, key_id=f"arn:aws:kms:us-east-1:{A}:key/{KEY_ID}"),)),
    ),
]
