"""How key policies, identity policies and session policies come together."""

from __future__ import annotations

from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    KEY,
    LOGS,
    MAY_ALL,
    ROOT,
    ROOT_B,
    S1,
    A,
    B,
    Case,
    allow,
    ask,
    deny,
    policy,
    root,
    service,
    session,
    user,
)

EVALUATION = "IAM User Guide, Policy evaluation logic"
ACROSS = "IAM User Guide, Cross-account policy evaluation logic"
EXTERNAL = "KMS Developer Guide, Allowing users in other accounts to use a KMS key"
TROUBLE = "KMS Developer Guide, Troubleshooting key access"
KEY_POLICIES = "KMS Developer Guide, Key policies in AWS KMS"
PRINCIPAL = "IAM User Guide, AWS JSON policy elements: Principal"

DENY = "An explicit Deny in any policy overrides every Allow."
DELEGATE = "Identity policies count only if the key policy lets the account use them."
NARROW = "Delegation reaches as far as the statement that delegates: its actions, its conditions."
BOTH = "From another account, the key policy and the caller's identity policy must both allow."
BOUND = "A session policy bounds what identity policies and a key policy that names the role give."
DIRECT = "What a key policy gives a session by its own ARN, no session policy bounds."
WILD = "What a key policy gives everyone, no session policy bounds, unless it has a Deny."
UNION = "Several policies of one kind allow together what any of them allows."
EMPTY = "A session with a policy that allows nothing may do nothing by its role."
FOREIGN_ONLY = "Across accounts only some operations work, whatever the policies say."
NO_POLICY = "Resources without a policy of their own are given by identity policies of their account alone."
SERVICE = "Services have no identity policies; the key policy alone decides."

ENCRYPT_ONLY = policy(allow(None, "kms:Encrypt"))
NOTHING = policy(allow(None, "s3:*"))
NAMED_B = policy(allow(f"arn:aws:iam::{B}:user/alice"))
BOB_B = user("alice", MAY_ALL, account=B)

CASES = [
    Case("delegated and allowed", "by:identity-policy:#0", DELEGATE, TROUBLE, ask(user("alice", MAY_ALL))),
    Case("delegated, nothing allowed", "identity", DELEGATE, TROUBLE, ask(user())),
    Case(
        "delegated, other action allowed",
        "identity",
        DELEGATE,
        TROUBLE,
        ask(user("alice", ENCRYPT_ONLY), operation="Decrypt"),
    ),
    Case("not delegated", "resource", DELEGATE, KEY_POLICIES, ask(user("alice", MAY_ALL), CLOSED)),
    Case(
        "delegates one action",
        "allow",
        NARROW,
        TROUBLE,
        ask(user("alice", MAY_ALL), policy(allow(ROOT, "kms:Encrypt"))),
    ),
    Case(
        "delegates another action",
        "resource",
        NARROW,
        TROUBLE,
        ask(user("alice", MAY_ALL), policy(allow(ROOT, "kms:Encrypt")), "Decrypt"),
    ),
    Case(
        "delegates under a condition",
        "resource",
        NARROW,
        TROUBLE,
        ask(user("alice", MAY_ALL), policy(allow(ROOT, Condition={"Bool": {"aws:SecureTransport": "true"}}))),
    ),
    Case("session, delegated", "allow", DELEGATE, TROUBLE, ask(session("app", "s1", MAY_ALL))),
    Case("second identity policy allows", "allow", UNION, EVALUATION, ask(user("alice", NOTHING, ENCRYPT_ONLY))),
    Case("second identity policy denies", "explicit", DENY, EVALUATION, ask(user("alice", MAY_ALL, policy(deny())))),
    Case(
        "key policy denies what it allows", "explicit", DENY, EVALUATION, ask(user(), policy(allow(ALICE), deny("*")))
    ),
    Case("deny stands first", "explicit", DENY, EVALUATION, ask(user(), policy(deny("*"), allow(ALICE)))),
    Case(
        "key policy denies what identity allows",
        "explicit",
        DENY,
        EVALUATION,
        ask(user("alice", MAY_ALL), policy(allow(ROOT), deny(ALICE, "kms:Encrypt"))),
    ),
    Case(
        "identity denies what key policy allows",
        "explicit",
        DENY,
        KEY_POLICIES,
        ask(user("alice", policy(deny(None, "kms:Encrypt"))), policy(allow(ALICE))),
    ),
    Case(
        "identity denies another action",
        "allow",
        DENY,
        EVALUATION,
        ask(user("alice", policy(deny(None, "kms:Decrypt"))), policy(allow(ALICE))),
    ),
    Case(
        "identity denies another key",
        "allow",
        DENY,
        EVALUATION,
        ask(user("alice", policy(deny(None, "kms:*", KEY[:-1] + "c"))), policy(allow(ALICE))),
    ),
    Case(
        "deny under a condition that fails",
        "allow",
        DENY,
        EVALUATION,
        ask(user(), policy(allow(ALICE), deny(ALICE, Condition={"StringEquals": {"kms:ViaService": "x"}}))),
    ),
    Case("root denied", "explicit", DENY, EVALUATION, ask(root(), policy(allow(ROOT), deny(ROOT, "kms:Encrypt")))),
    Case("bounded, both allow", "allow", BOUND, EVALUATION, ask(session("app", "s1", MAY_ALL, bound=(ENCRYPT_ONLY,)))),
    Case(
        "bounded, bound lacks it",
        "session",
        BOUND,
        EVALUATION,
        ask(session("app", "s1", MAY_ALL, bound=(ENCRYPT_ONLY,)), operation="Decrypt"),
    ),
    Case("bound alone gives nothing", "identity", BOUND, EVALUATION, ask(session(bound=(MAY_ALL,)))),
    Case("bound is empty", "session", EMPTY, EVALUATION, ask(session("app", "s1", MAY_ALL, bound=()))),
    Case(
        "two bounds, either",
        "allow",
        UNION,
        EVALUATION,
        ask(session("app", "s1", MAY_ALL, bound=(NOTHING, ENCRYPT_ONLY))),
    ),
    Case(
        "role named, bound lacks it",
        "session",
        BOUND,
        EVALUATION,
        ask(session(bound=(ENCRYPT_ONLY,)), policy(allow(APP)), "Decrypt"),
    ),
    Case(
        "role named, bound has it",
        "by:key-policy:#0",
        BOUND,
        EVALUATION,
        ask(session(bound=(ENCRYPT_ONLY,)), policy(allow(APP))),
    ),
    Case(
        "session named, bound lacks it",
        "by:key-policy:#0",
        DIRECT,
        EVALUATION,
        ask(session(bound=(NOTHING,)), policy(allow(S1))),
    ),
    Case(
        "session named, bound denies",
        "explicit",
        DENY,
        EVALUATION,
        ask(session(bound=(policy(deny()),)), policy(allow(S1))),
    ),
    Case(
        "everyone, bound lacks it",
        "allow",
        WILD,
        PRINCIPAL,
        ask(session(bound=(NOTHING,)), policy(allow("*", Condition={"ArnEquals": {"aws:PrincipalArn": APP}}))),
    ),
    Case(
        "everyone, bound denies", "explicit", WILD, PRINCIPAL, ask(session(bound=(policy(deny()),)), policy(allow("*")))
    ),
    Case(
        "session and role named",
        "allow",
        DIRECT,
        EVALUATION,
        ask(session(bound=(NOTHING,)), policy(allow(APP), allow(S1))),
    ),
    Case("across: both", "by:key-policy:#0+identity-policy:#0", BOTH, EXTERNAL, ask(BOB_B, NAMED_B)),
    Case("across: key policy alone", "identity", BOTH, ACROSS, ask(user("alice", account=B), NAMED_B)),
    Case("across: identity alone", "resource", BOTH, ACROSS, ask(BOB_B)),
    Case("across: account named", "allow", BOTH, TROUBLE, ask(BOB_B, policy(allow(ROOT_B)))),
    Case(
        "across: account named, identity lacks it",
        "identity",
        BOTH,
        TROUBLE,
        ask(user("alice", NOTHING, account=B), policy(allow(ROOT_B))),
    ),
    Case("across: other account named", "resource", BOTH, ACROSS, ask(BOB_B, policy(allow("777788889999")))),
    Case("across: root of the named account", "allow", BOTH, TROUBLE, ask(root(B), policy(allow(ROOT_B)))),
    Case("across: key policy denies", "explicit", DENY, ACROSS, ask(BOB_B, policy(allow(ROOT_B), deny(ROOT_B)))),
    Case(
        "across: identity denies",
        "explicit",
        DENY,
        ACROSS,
        ask(user("alice", MAY_ALL, policy(deny()), account=B), NAMED_B),
    ),
    Case(
        "across: session named, bound lacks it",
        "session",
        "The exemption of a session that is named is for its own account.",
        EVALUATION,
        ask(
            session("app", "s1", MAY_ALL, account=B, bound=(NOTHING,)),
            policy(allow(f"arn:aws:sts::{B}:assumed-role/app/s1")),
        ),
    ),
    Case(
        "across: role named and bound has it",
        "allow",
        BOTH,
        ACROSS,
        ask(
            session("app", "s1", MAY_ALL, account=B, bound=(ENCRYPT_ONLY,)), policy(allow(f"arn:aws:iam::{B}:role/app"))
        ),
    ),
    Case("across: DescribeKey", "allow", FOREIGN_ONLY, EXTERNAL, ask(BOB_B, NAMED_B, "DescribeKey")),
    Case("across: PutKeyPolicy", "resource", FOREIGN_ONLY, EXTERNAL, ask(BOB_B, NAMED_B, "PutKeyPolicy")),
    Case("across: ScheduleKeyDeletion", "resource", FOREIGN_ONLY, EXTERNAL, ask(BOB_B, NAMED_B, "ScheduleKeyDeletion")),
    Case(
        "no policy, identity allows",
        "allow",
        NO_POLICY,
        EVALUATION,
        ask(user("alice", MAY_ALL), None, "CreateKey", resource="*"),
    ),
    Case(
        "no policy, identity lacks it",
        "identity",
        NO_POLICY,
        EVALUATION,
        ask(user("alice", NOTHING), None, "CreateKey", resource="*"),
    ),
    Case(
        "no policy, root",
        "allow",
        "The root user may do all in its account.",
        EVALUATION,
        ask(root(), None, "CreateKey", resource="*"),
    ),
    Case(
        "no policy, another account",
        "resource",
        BOTH,
        ACROSS,
        ask(BOB_B, None, "logs:GetLogEvents", resource=f"arn:aws:logs:us-east-1:{A}:log-group:app:*"),
    ),
    Case(
        "no policy, session bound",
        "session",
        BOUND,
        EVALUATION,
        ask(session("app", "s1", MAY_ALL, bound=(NOTHING,)), None, "CreateKey", resource="*"),
    ),
    Case("service, nothing named", "resource", SERVICE, KEY_POLICIES, ask(service(), CLOSED)),
    Case(
        "service denied",
        "explicit",
        DENY,
        EVALUATION,
        ask(service(), policy(allow({"Service": LOGS}), deny({"Service": LOGS}, "kms:Encrypt"))),
    ),
]
