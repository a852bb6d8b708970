"""Whom a statement names."""

from __future__ import annotations

from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    DELEGATING,
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

PRINCIPAL = "IAM User Guide, AWS JSON policy elements: Principal"
NOT_PRINCIPAL = "IAM User Guide, AWS JSON policy elements: NotPrincipal"
KEY_POLICY = "KMS Developer Guide, Creating a key policy"
EVALUATION = "IAM User Guide, Policy evaluation logic"

USER = "A user named in the key policy needs nothing else in the key's own account."
ROLE = "A role's ARN means every session of the role."
SESSION = "An assumed-role session's ARN means that one session; the name must be written out."
ACCOUNT = "An account principal gives nobody anything; it lets the account's identity policies do so."
CASE = "The name in a principal's ARN is case sensitive."
SERVICE = "A service is named under Service, by its exact service principal."
EVERYONE = "The lone asterisk, bare or under AWS, is every principal."
NOT_ALLOW = "NotPrincipal with Allow is everyone except those listed."
NOT_DENY = "NotPrincipal with Deny spares only those whose account, role and session (or user) are all listed."
UNMATCHED = "Federated users, identity providers and canonical users are principals of kinds that do not exist here."

CASES = [
    Case("user named", "by:key-policy:#0", USER, KEY_POLICY, ask(user(), policy(allow(ALICE)))),
    Case("other user named", "resource", USER, KEY_POLICY, ask(user("bob"), policy(allow(ALICE)))),
    Case("one of a list", "allow", USER, PRINCIPAL, ask(user("bob"), policy(allow([ALICE, ALICE[:-5] + "bob"])))),
    Case(
        "user with path",
        "allow",
        USER,
        PRINCIPAL,
        ask(user("division/alice"), policy(allow(f"arn:aws:iam::{A}:user/division/alice"))),
    ),
    Case("user's path left out", "resource", CASE, PRINCIPAL, ask(user("division/alice"), policy(allow(ALICE)))),
    Case("role named, session asks", "allow", ROLE, PRINCIPAL, ask(session(), policy(allow(APP)))),
    Case("role named, its other session asks", "allow", ROLE, PRINCIPAL, ask(session("app", "s2"), policy(allow(APP)))),
    Case("other role named", "resource", ROLE, PRINCIPAL, ask(session("admin"), policy(allow(APP)))),
    Case(
        "role with path",
        "allow",
        ROLE,
        PRINCIPAL,
        ask(session("team/app"), policy(allow(f"arn:aws:iam::{A}:role/team/app"))),
    ),
    Case("session named", "by:key-policy:#0", SESSION, PRINCIPAL, ask(session(), policy(allow(S1)))),
    Case("other session of the role", "resource", SESSION, PRINCIPAL, ask(session("app", "s2"), policy(allow(S1)))),
    Case("account by root ARN, no identity policy", "identity", ACCOUNT, KEY_POLICY, ask(user(), policy(allow(ROOT)))),
    Case("account by number, no identity policy", "identity", ACCOUNT, PRINCIPAL, ask(user(), policy(allow(A)))),
    Case(
        "account by root ARN and identity policy",
        "by:identity-policy:#0",
        ACCOUNT,
        KEY_POLICY,
        ask(user("alice", MAY_ALL), policy(allow(ROOT))),
    ),
    Case(
        "account by number and identity policy", "allow", ACCOUNT, PRINCIPAL, ask(user("al", MAY_ALL), policy(allow(A)))
    ),
    Case("other account", "resource", ACCOUNT, PRINCIPAL, ask(user("alice", MAY_ALL), policy(allow(ROOT_B)))),
    Case(
        "root of the account",
        "by:key-policy:#0",
        "The account principal stands for its root user too, who needs no identity policy.",
        KEY_POLICY,
        ask(root(), policy(allow(ROOT))),
    ),
    Case(
        "root where only a user is named",
        "resource",
        "The root user has no permission on a key that the key policy does not give.",
        "KMS Developer Guide, Key policies in AWS KMS",
        ask(root(), CLOSED),
    ),
    Case("everyone", "allow", EVERYONE, PRINCIPAL, ask(user(), policy(allow("*")))),
    Case("everyone under AWS", "allow", EVERYONE, PRINCIPAL, ask(user(), policy(allow({"AWS": "*"})))),
    Case("everyone is a session too", "allow", EVERYONE, PRINCIPAL, ask(session(), policy(allow("*")))),
    Case("everyone is the root too", "allow", EVERYONE, PRINCIPAL, ask(root(), policy(allow("*")))),
    Case("everyone is a service too", "allow", EVERYONE, PRINCIPAL, ask(service(), policy(allow("*")))),
    Case(
        "everyone, from another account",
        "identity",
        "Principals of other accounts also need an identity policy of their own.",
        PRINCIPAL,
        ask(user(account=B), policy(allow("*"))),
    ),
    Case("service named", "by:key-policy:#0", SERVICE, PRINCIPAL, ask(service(), policy(allow({"Service": LOGS})))),
    Case(
        "service in a list",
        "allow",
        SERVICE,
        PRINCIPAL,
        ask(service(), policy(allow({"Service": ["sns.amazonaws.com", LOGS]}))),
    ),
    Case(
        "service of another region",
        "resource",
        SERVICE,
        PRINCIPAL,
        ask(service(), policy(allow({"Service": "logs.eu-west-1.amazonaws.com"}))),
    ),
    Case(
        "service without region",
        "resource",
        SERVICE,
        PRINCIPAL,
        ask(service(), policy(allow({"Service": "logs.amazonaws.com"}))),
    ),
    Case("service where its account is named", "resource", ACCOUNT, PRINCIPAL, ask(service(), DELEGATING)),
    Case(
        "user where a service is named", "resource", SERVICE, PRINCIPAL, ask(user(), policy(allow({"Service": LOGS})))
    ),
    Case(
        "user or service: user",
        "allow",
        SERVICE,
        PRINCIPAL,
        ask(user(), policy(allow({"AWS": ALICE, "Service": LOGS}))),
    ),
    Case(
        "deny a service by everyone",
        "explicit",
        EVERYONE,
        PRINCIPAL,
        ask(service(), policy(allow({"Service": LOGS}), deny("*"))),
    ),
    Case(
        "federated principal",
        "resource",
        UNMATCHED,
        PRINCIPAL,
        ask(user(), policy(allow({"Federated": "accounts.google.com"}))),
    ),
    Case(
        "canonical user",
        "resource",
        UNMATCHED,
        PRINCIPAL,
        ask(user(), policy(allow({"CanonicalUser": "79a59df900b949e5"}))),
    ),
    Case(
        "federated user of that name",
        "resource",
        UNMATCHED,
        PRINCIPAL,
        ask(user(), policy(allow(f"arn:aws:sts::{A}:federated-user/alice"))),
    ),
    Case(
        "deny names the user",
        "explicit",
        "An explicit Deny overrides any Allow.",
        EVALUATION,
        ask(user("alice", MAY_ALL), policy(allow(ROOT), deny(ALICE))),
    ),
    Case(
        "deny names the role",
        "explicit",
        "A Deny on a role is a Deny on its sessions.",
        EVALUATION,
        ask(session("app", "s1", MAY_ALL), policy(allow(ROOT), deny(APP))),
    ),
    Case("deny names one session", "explicit", SESSION, EVALUATION, ask(session(), policy(allow(APP), deny(S1)))),
    Case(
        "deny names another session",
        "allow",
        SESSION,
        EVALUATION,
        ask(session("app", "s2"), policy(allow(APP), deny(S1))),
    ),
    Case(
        "deny names the account",
        "explicit",
        "Denying an account denies all in it.",
        NOT_PRINCIPAL,
        ask(user("alice", MAY_ALL), policy(allow(ALICE), deny(ROOT))),
    ),
    Case(
        "deny names another account",
        "allow",
        "Denying an account denies those in it alone.",
        NOT_PRINCIPAL,
        ask(user(), policy(allow(ALICE), deny(ROOT_B))),
    ),
    Case(
        "not principal, allowed",
        "allow",
        NOT_ALLOW,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(None, NotPrincipal={"AWS": ROOT_B}))),
    ),
    Case(
        "not principal, listed",
        "resource",
        NOT_ALLOW,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(None, NotPrincipal={"AWS": ALICE}))),
    ),
    Case(
        "not principal, account listed",
        "resource",
        NOT_ALLOW,
        NOT_PRINCIPAL,
        ask(user("alice", MAY_ALL), policy(allow(None, NotPrincipal={"AWS": A}))),
    ),
    Case(
        "not principal, role listed",
        "resource",
        NOT_ALLOW,
        NOT_PRINCIPAL,
        ask(session(), policy(allow(None, NotPrincipal={"AWS": APP}))),
    ),
    Case(
        "deny not principal, user and account",
        "allow",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(ALICE), deny(None, NotPrincipal={"AWS": [ALICE, ROOT]}))),
    ),
    Case(
        "deny not principal, user alone",
        "explicit",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(ALICE), deny(None, NotPrincipal={"AWS": ALICE}))),
    ),
    Case(
        "deny not principal, account alone",
        "explicit",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(ALICE), deny(None, NotPrincipal={"AWS": ROOT}))),
    ),
    Case(
        "deny not principal, account alone, root asks",
        "allow",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(root(), policy(allow(ROOT), deny(None, NotPrincipal={"AWS": ROOT}))),
    ),
    Case(
        "deny not principal, all of a session",
        "allow",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(session(), policy(allow(APP), deny(None, NotPrincipal={"AWS": [S1, APP, ROOT]}))),
    ),
    Case(
        "deny not principal, role and account alone",
        "explicit",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(session(), policy(allow(APP), deny(None, NotPrincipal={"AWS": [APP, ROOT]}))),
    ),
    Case(
        "deny not principal, service listed",
        "allow",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(service(), policy(allow({"Service": LOGS}), deny(None, NotPrincipal={"Service": LOGS}))),
    ),
    Case(
        "deny not principal, service not listed",
        "explicit",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(service(), policy(allow({"Service": LOGS}), deny(None, NotPrincipal={"AWS": ROOT}))),
    ),
    Case(
        "trust policy names the user",
        "by:trust-policy:#0",
        "A trust policy says who may assume its role.",
        PRINCIPAL,
        ask(user(), policy(allow(ALICE, "sts:AssumeRole", None)), "sts:AssumeRole", resource=APP),
    ),
    Case(
        "trust policy names another",
        "resource",
        "A trust policy says who may assume its role.",
        PRINCIPAL,
        ask(user("bob", MAY_ALL), policy(allow(ALICE, "sts:AssumeRole", None)), "sts:AssumeRole", resource=APP),
    ),
    Case(
        "trust policy names the account",
        "identity",
        "A trusted account must let its principals assume the role.",
        PRINCIPAL,
        ask(user("bob", MAY_ALL), policy(allow(ROOT, "sts:AssumeRole", None)), "sts:AssumeRole", resource=APP),
    ),
    Case(
        "trust policy names the account, identity allows",
        "allow",
        "A trusted account must let its principals assume the role.",
        PRINCIPAL,
        ask(
            user("bob", policy(allow(None, "sts:AssumeRole", APP))),
            policy(allow(ROOT, "sts:AssumeRole", None)),
            "sts:AssumeRole",
            resource=APP,
        ),
    ),
    Case(
        "resource is the key's own ARN",
        "allow",
        "A key policy's Resource can be the key's ARN.",
        KEY_POLICY,
        ask(user(), policy(allow(ALICE, resource=KEY))),
    ),
    Case(
        "deny not principal, everyone listed",
        "allow",
        NOT_DENY,
        NOT_PRINCIPAL,
        ask(user(), policy(allow(ALICE), deny(None, NotPrincipal="*"))),
    ),
    Case(
        "denied twice",
        "explicit",
        "An explicit Deny overrides any Allow.",
        EVALUATION,
        ask(user(), policy(deny(ALICE), deny("*"), allow(ALICE))),
    ),
]
