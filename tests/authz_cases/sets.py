"""Null, set operators, keys of conditions, and variables in their values."""

from __future__ import annotations

from tests.authz_cases.support import ALICE, KEY, LOGS, A, Case, allow, ask, policy, service, session, user, when

OPERATORS = "IAM User Guide, IAM JSON policy elements: Condition operators"
CONDITION = "IAM User Guide, IAM JSON policy elements: Condition"
SETS = "IAM User Guide, Single-valued vs. multivalued context keys"
KMS = "KMS Developer Guide, AWS KMS condition keys"
GLOBAL = "IAM User Guide, AWS global condition context keys"
VARIABLES = "IAM User Guide, IAM policy elements: Variables and tags"

EXACT = "StringEquals is exact and case sensitive; an asterisk is an asterisk."
ARN = "ARN operators compare each of the six parts by itself; Equals and Like are the same."
NULL = "Null with true: the key is not in the request; with false: it is, and has a value."
ALL = "ForAllValues: each value of the request matches a listed one; also true when there is none."
ANY = "ForAnyValue: some value of the request matches a listed one; false when there is none."
KEY_CASE = "Names of condition keys are not case sensitive, the part after kms:EncryptionContext: included."
VARIABLE = "Variables work in values of string and ARN operators."
UNRESOLVED = "A variable without a value equals nothing, and opens nothing by that."

CONTEXT = "kms:EncryptionContext:Department"
IT = {"Department": "IT"}

CASES = [
    Case("null, absent", "allow", NULL, OPERATORS, when({"Null": {"aws:TokenIssueTime": "true"}})),
    Case("null, present", "resource", NULL, OPERATORS, when({"Null": {"aws:TokenIssueTime": True}}, caller=session())),
    Case("not null, present", "allow", NULL, KMS, when({"Null": {"kms:EncryptionContextKeys": False}}, context=IT)),
    Case("not null, absent", "resource", NULL, KMS, when({"Null": {"kms:EncryptionContextKeys": "false"}})),
    Case(
        "all values",
        "allow",
        ALL,
        SETS,
        when(
            {"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Decrypt"]}},
            kms__GrantOperations=("Decrypt",),
        ),
    ),
    Case(
        "all values, one too many",
        "resource",
        ALL,
        SETS,
        when(
            {"ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt"]}},
            kms__GrantOperations=("Decrypt", "Encrypt"),
        ),
    ),
    Case("all values, none there", "allow", ALL, SETS, when({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}})),
    Case(
        "all values, the empty one",
        "allow",
        ALL,
        SETS,
        when({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}, aws__TagKeys=("",)),
    ),
    Case(
        "all values and not null",
        "resource",
        NULL,
        SETS,
        when(
            {"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}, "Null": {"aws:TagKeys": "false"}}, aws__TagKeys=("",)
        ),
    ),
    Case(
        "deny all values not like, none there",
        "explicit",
        ALL,
        SETS,
        when({"ForAllValues:StringNotLike": {"aws:TagKeys": "key1*"}}, effect="Deny"),
    ),
    Case(
        "any value",
        "allow",
        ANY,
        SETS,
        when(
            {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/a"}},
            kms__ResourceAliases=("alias/b", "alias/a"),
        ),
    ),
    Case(
        "any value, none matches",
        "resource",
        ANY,
        SETS,
        when({"ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/a*"}}, kms__ResourceAliases=("alias/b",)),
    ),
    Case(
        "any value, none there", "resource", ANY, SETS, when({"ForAnyValue:StringLike": {"kms:ResourceAliases": "*"}})
    ),
    Case(
        "any value negated, none there",
        "resource",
        ANY,
        SETS,
        when({"ForAnyValue:StringNotEquals": {"kms:ResourceAliases": "alias/a"}}),
    ),
    Case(
        "any value negated, one differs",
        "allow",
        ANY,
        SETS,
        when(
            {"ForAnyValue:StringNotEquals": {"kms:ResourceAliases": "alias/a"}},
            kms__ResourceAliases=("alias/a", "alias/b"),
        ),
    ),
    Case(
        "context keys",
        "allow",
        ANY,
        KMS,
        when({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "Department"}}, context=IT),
    ),
    Case(
        "context keys, case",
        "resource",
        EXACT,
        KMS,
        when({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "department"}}, context=IT),
    ),
    Case("case of a key", "allow", KEY_CASE, CONDITION, when({"StringEquals": {"KMS:calleraccount": A}})),
    Case(
        "case of a context key",
        "allow",
        KEY_CASE,
        KMS,
        when({"StringEquals": {"kms:EncryptionContext:DEPARTMENT": "IT"}}, context=IT),
    ),
    Case(
        "variable in a value",
        "allow",
        VARIABLE,
        VARIABLES,
        when({"StringEquals": {CONTEXT: "${aws:username}"}}, context={"Department": "alice"}),
    ),
    Case(
        "variable in an ARN",
        "allow",
        VARIABLE,
        VARIABLES,
        when({"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{A}:user/${{aws:username}}"}}),
    ),
    Case(
        "variable without value",
        "resource",
        UNRESOLVED,
        VARIABLES,
        when({"StringEquals": {CONTEXT: "${aws:PrincipalTag/team}"}}, context={"Department": ""}),
    ),
    Case(
        "principal's tag against resource's",
        "allow",
        VARIABLE,
        VARIABLES,
        when(
            {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}},
            caller=user("alice", team="red"),
            aws__ResourceTag___team="red",
        ),
    ),
    Case(
        "service's account",
        "allow",
        "aws:SourceAccount is the account for which a service acts.",
        GLOBAL,
        ask(service(), policy(allow({"Service": LOGS}, Condition={"StringEquals": {"aws:SourceAccount": A}}))),
    ),
    Case(
        "service pinned to a log group",
        "allow",
        "A key policy can pin a key to a log group by its encryption context.",
        "CloudWatch Logs User Guide, Encrypt log data",
        ask(
            service(),
            policy(
                allow(
                    {"Service": LOGS},
                    Condition={
                        "ArnEquals": {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:us-east-1:{A}:log-group:app"}
                    },
                )
            ),
            context={"aws:logs:arn": f"arn:aws:logs:us-east-1:{A}:log-group:app"},
        ),
    ),
    Case(
        "caller's account for everyone",
        "allow",
        "kms:CallerAccount with an asterisk principal means an account.",
        KMS,
        ask(user(), policy(allow({"AWS": "*"}, Condition={"StringEquals": {"kms:CallerAccount": A}}))),
    ),
    Case(
        "empty condition",
        "allow",
        "A statement without conditions always applies.",
        CONDITION,
        ask(user(), policy(allow(ALICE, "kms:Encrypt", KEY, Condition={}))),
    ),
    Case(
        "tags that differ in case alone",
        "resource",
        KEY_CASE,
        CONDITION,
        when(
            {"StringEquals": {"aws:ResourceTag/team": "red"}},
            aws__ResourceTag___team="red",
            aws__ResourceTag___TEAM="blue",
        ),
    ),
    Case(
        "tags that differ in case alone, in several values",
        "allow",
        KEY_CASE,
        CONDITION,
        when({"ForAnyValue:StringEquals": {"aws:tagkeys": "a"}}, aws__TagKeys=("a",), AWS__TagKeys=("a", "a")),
    ),
    Case(
        "no service",
        "allow",
        "aws:PrincipalIsAWSService is false for people and their roles.",
        GLOBAL,
        when({"Bool": {"aws:PrincipalIsAWSService": "false"}}),
    ),
    Case(
        "name of a service",
        "allow",
        "aws:PrincipalServiceName is there for services.",
        GLOBAL,
        ask(service(), policy(allow("*", Condition={"StringEquals": {"aws:PrincipalServiceName": LOGS}}))),
    ),
    Case(
        "account of a service",
        "resource",
        "aws:PrincipalAccount and aws:PrincipalArn are not there for services.",
        GLOBAL,
        ask(service(), policy(allow("*", Condition={"StringEquals": {"aws:PrincipalAccount": A}}))),
    ),
    Case(
        "account and id of a user",
        "allow",
        "aws:PrincipalAccount and aws:userid follow from the caller.",
        GLOBAL,
        when({"StringEquals": {"aws:PrincipalAccount": A, "aws:userid": "AIDAALICE"}}),
    ),
]
