"""Attempts to get more than is due: by wildcards, missing keys, exceptions, grants and layers."""

from __future__ import annotations

from kmsd.authz.request import AuthorizationRequest
from tests.authz_cases import grants, principals
from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    DELEGATING,
    KEY,
    KEY_ID,
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
    service,
    session,
    user,
    when,
)

KMS = "KMS Developer Guide, AWS KMS condition keys"
OPERATORS = "IAM User Guide, IAM JSON policy elements: Condition operators"
VARIABLES = "IAM User Guide, IAM policy elements: Variables and tags"
EVALUATION = "IAM User Guide, Policy evaluation logic"
RETIRING = "KMS Developer Guide, Retiring and revoking grants"

PREFIX = f"arn:aws:kms:us-east-1:{A}:"
CONTEXT = "kms:EncryptionContext:Department"
NOTHING = policy(allow(None, "s3:*"))
IT, BOTH = grants.IT, grants.BOTH


def attack(name: str, expect: str, rule: str, page: str, query: AuthorizationRequest) -> Case:
    """A case that is an attempt."""
    return Case(name, expect, rule, page, query, attack=True)


CASES = [
    # Wildcards and variables
    attack(
        "asterisk given in the request",
        "resource",
        "Wildcards count in the policy, not in the request.",
        OPERATORS,
        when({"StringLike": {CONTEXT: "prod-*"}}, context={"Department": "*"}),
    ),
    attack(
        "tag that holds an asterisk",
        "identity",
        "A variable's value is plain text.",
        VARIABLES,
        ask(
            user("alice", policy(allow(None, "kms:*", PREFIX + "alias/${aws:PrincipalTag/team}")), team="*"),
            DELEGATING,
            resource=PREFIX + "alias/secret",
        ),
    ),
    attack(
        "tag that holds a variable",
        "resource",
        "A variable's value is plain text.",
        VARIABLES,
        when(
            {"StringEquals": {CONTEXT: "${aws:PrincipalTag/team}"}},
            caller=user("alice", team="${aws:username}"),
            context={"Department": "alice"},
        ),
    ),
    attack(
        "session name with a slash pattern",
        "resource",
        "Principals are compared whole.",
        principals.PRINCIPAL,
        ask(session("app", "s1-x"), policy(allow(S1))),
    ),
    attack(
        "negated comparison with a tag that is not there",
        "resource",
        "A variable without a value makes an Allow invalid, not wider.",
        VARIABLES,
        when({"StringNotEquals": {CONTEXT: "${aws:PrincipalTag/team}"}}, context=IT),
    ),
    attack(
        "deny with a tag that is not there",
        "explicit",
        "A variable without a value equals nothing: the Deny applies.",
        VARIABLES,
        when({"StringNotEquals": {CONTEXT: "${aws:PrincipalTag/team}"}}, effect="Deny", context=IT),
    ),
    attack(
        "NotResource with a tag that is not there",
        "identity",
        "A variable without a value makes an Allow invalid.",
        VARIABLES,
        ask(user("alice", policy(allow(None, "kms:*", None, NotResource=PREFIX + "key/${aws:PrincipalTag/x}")))),
    ),
    attack(
        "alias instead of the key",
        "identity",
        "A permission on an alias is none on its key.",
        "KMS Developer Guide, Controlling access to aliases",
        ask(user("alice", policy(allow(None, "kms:Decrypt", PREFIX + "alias/app"))), operation="Decrypt"),
    ),
    # Missing keys and odd types
    attack(
        "no context where one is demanded",
        "resource",
        "If the key is not in the request, the condition is false.",
        OPERATORS,
        when({"StringLike": {CONTEXT: "*"}}),
    ),
    attack(
        "empty value for a demanded context",
        "resource",
        "Null with false demands a value.",
        OPERATORS,
        when({"Null": {CONTEXT: "false"}}, context={"Department": ""}),
    ),
    attack(
        "number that is no number, negated",
        "resource",
        "What cannot be compared opens nothing.",
        OPERATORS,
        when({"NumericNotEquals": {CONTEXT: "1"}}, context={"Department": "one"}),
    ),
    attack(
        "number in Arabic digits",
        "resource",
        "Numbers are ASCII digits.",
        OPERATORS,
        when({"NumericEquals": {CONTEXT: "1"}}, context={"Department": "\u0661"}),
    ),
    attack(
        "address that is none, negated",
        "resource",
        "What cannot be compared opens nothing.",
        OPERATORS,
        when({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, aws__SourceIp="10.0.0.1, 8.8.8.8"),
    ),
    attack(
        "address with leading zeros",
        "resource",
        "Addresses are in standard form.",
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, aws__SourceIp="010.0.0.1"),
    ),
    attack(
        "denied address in IPv6 clothes",
        "explicit",
        "An IPv4 address is itself however it is written.",
        OPERATORS,
        when({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, effect="Deny", aws__SourceIp="::ffff:203.0.113.9"),
    ),
    attack(
        "several values, one allowed",
        "resource",
        "ForAllValues: each value must match.",
        OPERATORS,
        when(
            {"ForAllValues:StringEquals": {"kms:GrantOperations": "Encrypt"}},
            kms__GrantOperations=("Encrypt", "Decrypt"),
        ),
    ),
    attack(
        "several values under a plain negation",
        "resource",
        "For a negated operator, none of the values may match.",
        OPERATORS,
        when({"StringNotEquals": {"kms:GrantOperations": "Decrypt"}}, kms__GrantOperations=("Encrypt", "Decrypt")),
    ),
    # NotPrincipal
    attack(
        "session of an excluded role",
        "resource",
        principals.NOT_ALLOW,
        principals.NOT_PRINCIPAL,
        ask(session("app", "s2"), policy(allow(None, NotPrincipal={"AWS": APP}))),
    ),
    attack(
        "service slips through an account's exception",
        "explicit",
        principals.NOT_DENY,
        principals.NOT_PRINCIPAL,
        ask(service(), policy(allow("*"), deny(None, NotPrincipal={"AWS": [ROOT, ALICE]}))),
    ),
    attack(
        "other session of a spared session",
        "explicit",
        principals.NOT_DENY,
        principals.NOT_PRINCIPAL,
        ask(session("app", "s2"), policy(allow(APP), deny(None, NotPrincipal={"AWS": [S1, APP, ROOT]}))),
    ),
    attack(
        "excluded session policy escapes the bound",
        "session",
        "What NotPrincipal gives, session policies bound.",
        EVALUATION,
        ask(session(bound=(NOTHING,)), policy(allow(None, NotPrincipal={"AWS": ALICE}))),
    ),
    # Grants
    attack(
        "another's grant by its token",
        "resource",
        grants.WHO,
        grants.GRANTS,
        ask(user("mallory"), CLOSED, grants=(grant(ALICE),)),
    ),
    attack(
        "grant on another key",
        "resource",
        "A grant is on one key.",
        grants.GRANTS,
        ask(user(), CLOSED, grants=(grant(ALICE, key_id=KEY_ID[:-1] + "c"),)),
    ),
    attack(
        "grant on a key whose id ends alike",
        "resource",
        "A grant is on one key.",
        grants.GRANTS,
        ask(user(), CLOSED, grants=(grant(ALICE, key_id=KEY_ID[1:]),)),
    ),
    attack(
        "subset reversed",
        "resource",
        grants.SUBSET,
        grants.CONSTRAINTS,
        ask(user(), CLOSED, grants=(grant(ALICE, subset=BOTH),), context=IT),
    ),
    attack(
        "subset by an empty context",
        "resource",
        grants.SUBSET,
        grants.CONSTRAINTS,
        ask(user(), CLOSED, "Decrypt", grants=(grant(ALICE, subset=BOTH),)),
    ),
    attack(
        "subset with the key's case changed",
        "resource",
        "Grant constraints are an exact, case-sensitive match.",
        grants.CREATING,
        ask(user(), CLOSED, grants=(grant(ALICE, subset=IT),), context={"department": "IT"}),
    ),
    attack(
        "account root as grantee, user asks",
        "resource",
        grants.WHO,
        grants.GRANTS,
        ask(user("alice"), CLOSED, grants=(grant(ROOT),)),
    ),
    attack(
        "account root as grantee, user with identity policy",
        "resource",
        grants.WHO,
        grants.GRANTS,
        ask(user("alice", MAY_ALL), CLOSED, grants=(grant(ROOT),)),
    ),
    attack(
        "same role name in another account",
        "resource",
        grants.WHO,
        grants.GRANTS,
        ask(session("app", "s1", MAY_ALL, account=B), CLOSED, grants=(grant(APP),)),
    ),
    attack(
        "RetireGrant of one grant for another",
        "resource",
        "RetireGrant in a grant is about that grant.",
        RETIRING,
        ask(user(), CLOSED, "RetireGrant", grants=(grant(ALICE, "RetireGrant"),)),
    ),
    attack(
        "grant that lists an operation no grant can give",
        "resource",
        grants.ONLY,
        grants.GRANTS,
        ask(user(), CLOSED, "PutKeyPolicy", grants=(grant(ALICE, "PutKeyPolicy"),)),
    ),
    attack(
        "grant for another service's action",
        "resource",
        grants.ONLY,
        grants.GRANTS,
        ask(user(), CLOSED, "logs:Encrypt", grants=(grant(ALICE),)),
    ),
    attack(
        "session evades its bound by a grant to the role",
        "session",
        grants.BOUND,
        EVALUATION,
        ask(session(bound=(NOTHING,)), DELEGATING, "Decrypt", grants=(grant(APP),)),
    ),
    # Layers
    attack(
        "identity policy on a key that does not delegate",
        "resource",
        "The key policy must let identity policies count.",
        "KMS Developer Guide, Key policies in AWS KMS",
        ask(user("alice", policy(allow(None, "*", KEY))), CLOSED),
    ),
    attack(
        "session policy as a gift",
        "identity",
        "A session policy gives nothing.",
        EVALUATION,
        ask(session(bound=(MAY_ALL,))),
    ),
    attack(
        "session with an unread bound",
        "session",
        "A session policy without the action allows nothing.",
        EVALUATION,
        ask(session("app", "s1", MAY_ALL, bound=())),
    ),
    attack(
        "delegation of an action in other case",
        "resource",
        "Delegation is per action.",
        EVALUATION,
        ask(user("alice", MAY_ALL), policy(allow(ROOT, "kms:describekey"))),
    ),
    attack(
        "foreign administrator changes the key policy",
        "resource",
        "Across accounts only some operations work.",
        "KMS Developer Guide, Allowing users in other accounts to use a KMS key",
        ask(user("alice", MAY_ALL, account=B), policy(allow("*")), "PutKeyPolicy"),
    ),
    attack(
        "deny spelled in lower case still denies",
        "explicit",
        "Actions are compared without case.",
        "IAM User Guide, IAM JSON policy elements: Action",
        ask(user(), policy(allow(ALICE), deny(ALICE, "KMS:eNCRYPT"))),
    ),
    attack(
        "identity policy that cannot be read",
        "identity",
        "An error in the evaluation ends it without access.",
        EVALUATION,
        ask(user("alice", MAY_ALL, "{"), policy(allow(ALICE))),
    ),
    attack(
        "key policy that cannot be read",
        "resource",
        "An error in the evaluation ends it without access.",
        EVALUATION,
        ask(user("alice", MAY_ALL), '{"Statement": []}'),
    ),
]
