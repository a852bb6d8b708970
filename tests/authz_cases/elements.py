"""Actions, resources, versions and policy variables."""

from __future__ import annotations

from typing import Any

from kmsd.authz.request import AuthorizationRequest
from tests.authz_cases.support import (
    ALICE,
    DELEGATING,
    KEY,
    A,
    Case,
    allow,
    ask,
    deny,
    policy,
    user,
)

ACTION = "IAM User Guide, IAM JSON policy elements: Action"
NOT_ACTION = "IAM User Guide, IAM JSON policy elements: NotAction"
RESOURCE = "IAM User Guide, IAM JSON policy elements: Resource"
NOT_RESOURCE = "IAM User Guide, IAM JSON policy elements: NotResource"
VARIABLES = "IAM User Guide, IAM policy elements: Variables and tags"
KEY_POLICY = "KMS Developer Guide, Creating a key policy"

WILD = "An asterisk in an action stands for any characters, a question mark for one."
NO_CASE = "Prefix and name of an action are not case sensitive."
EXACT = "Without wildcard, an action is that action alone."
NOT = "NotAction is every action but those listed."
STAR = "The asterisk as Resource is every resource."
SEGMENT = "Wildcards work within a part of an ARN; one at the very end reaches on."
NOT_RES = "NotResource is every resource but those listed."
RES_CASE = "ARNs are case sensitive."
MISSING = "A key policy statement without Resource (or Action) is stored and has no effect."
NO_RESOURCE = "Actions without a resource of their own need the asterisk as Resource."
OLD = "Policies of version 2008-10-17, or without Version, know no variables: the text stands for itself."
VARIABLE = "A variable in Resource is replaced by the request's value."
UNRESOLVED = "A variable without a value matches nothing."
DEFAULT = "A variable can have a default, in single quotes after a comma."
SPECIAL = "Dollar, braces and an asterisk, question mark or dollar within stand for that character itself."

PREFIX = f"arn:aws:kms:us-east-1:{A}:"


def by_action(action: Any, operation: str = "Encrypt", **more: Any) -> AuthorizationRequest:
    """Alice under a key policy that allows `action`."""
    return ask(user(), policy(allow(ALICE, action, **more)), operation)


def by_resource(resource: Any, asked: str = KEY, **more: Any) -> AuthorizationRequest:
    """Alice under the default key policy and an identity policy for `resource`."""
    return ask(user("alice", policy(allow(None, "kms:*", resource, **more))), DELEGATING, resource=asked)


CASES = [
    Case("exact action", "allow", EXACT, ACTION, by_action("kms:Encrypt")),
    Case("another action", "resource", EXACT, ACTION, by_action("kms:Encrypt", "Decrypt")),
    Case("list of actions", "allow", EXACT, ACTION, by_action(["kms:Encrypt", "kms:Decrypt"], "Decrypt")),
    Case("all actions", "allow", WILD, ACTION, by_action("*")),
    Case("all of KMS", "allow", WILD, ACTION, by_action("kms:*")),
    Case("all of another service", "resource", WILD, ACTION, by_action("s3:*")),
    Case("prefix", "allow", WILD, ACTION, by_action("kms:GenerateDataKey*", "GenerateDataKeyWithoutPlaintext")),
    Case("prefix, whole", "allow", WILD, ACTION, by_action("kms:GenerateDataKey*", "GenerateDataKey")),
    Case("suffix", "allow", WILD, ACTION, by_action("kms:*crypt", "Decrypt")),
    Case("middle", "allow", WILD, ACTION, by_action("kms:Gen*Plain*", "GenerateDataKeyWithoutPlaintext")),
    Case("middle, not there", "resource", WILD, ACTION, by_action("kms:Gen*Plain*", "GenerateDataKey")),
    Case("question marks", "allow", WILD, ACTION, by_action("kms:??crypt", "Encrypt")),
    Case("question marks, too few", "resource", WILD, ACTION, by_action("kms:?crypt", "Encrypt")),
    Case("ReEncrypt* covers both halves", "allow", WILD, ACTION, by_action("kms:ReEncrypt*", "ReEncryptTo")),
    Case("ReEncryptFrom is not ReEncryptTo", "resource", EXACT, ACTION, by_action("kms:ReEncryptFrom", "ReEncryptTo")),
    Case("Encrypt is not ReEncryptTo", "resource", EXACT, ACTION, by_action("kms:Encrypt", "ReEncryptTo")),
    Case("lower case", "allow", NO_CASE, ACTION, by_action("kms:encrypt")),
    Case("upper case prefix", "allow", NO_CASE, ACTION, by_action("KMS:ENCRYPT")),
    Case("NotAction", "allow", NOT, NOT_ACTION, by_action(None, NotAction="kms:Decrypt")),
    Case("NotAction, listed", "resource", NOT, NOT_ACTION, by_action(None, NotAction=["kms:Decrypt", "kms:enc*"])),
    Case(
        "deny NotAction",
        "explicit",
        NOT,
        NOT_ACTION,
        ask(user(), policy(allow(ALICE), deny(ALICE, None, NotAction="kms:Describe*"))),
    ),
    Case(
        "deny NotAction, listed",
        "allow",
        NOT,
        NOT_ACTION,
        ask(user(), policy(allow(ALICE), deny(ALICE, None, NotAction="kms:Describe*")), "DescribeKey"),
    ),
    Case("every resource", "allow", STAR, RESOURCE, by_resource("*")),
    Case("the key", "allow", STAR, RESOURCE, by_resource(KEY)),
    Case("another key", "identity", STAR, RESOURCE, by_resource(KEY[:-1] + "c")),
    Case("keys of the account", "allow", SEGMENT, RESOURCE, by_resource(PREFIX + "key/*")),
    Case("any region", "allow", SEGMENT, RESOURCE, by_resource(f"arn:aws:kms:*:{A}:key/*")),
    Case("any account", "allow", SEGMENT, RESOURCE, by_resource("arn:aws:kms:us-east-1:*:key/*")),
    Case("short, ends in asterisk", "allow", SEGMENT, RESOURCE, by_resource("arn:aws:kms:*")),
    Case("short within a part", "allow", SEGMENT, RESOURCE, by_resource("arn:aws:kms:us-*")),
    Case("short, other region", "identity", SEGMENT, RESOURCE, by_resource("arn:aws:kms:eu-*")),
    Case("question mark", "allow", SEGMENT, RESOURCE, by_resource(KEY[:-1] + "?")),
    Case("question mark is one character", "identity", SEGMENT, RESOURCE, by_resource(KEY + "?")),
    Case("aliases are not keys", "identity", SEGMENT, RESOURCE, by_resource(PREFIX + "alias/*")),
    Case("alias", "allow", SEGMENT, RESOURCE, by_resource(PREFIX + "alias/app/*", PREFIX + "alias/app/one")),
    Case(
        "case of an ARN", "identity", RES_CASE, RESOURCE, by_resource(KEY.upper().replace("ARN:AWS:KMS", "arn:aws:kms"))
    ),
    Case("NotResource", "allow", NOT_RES, NOT_RESOURCE, by_resource(None, NotResource=KEY[:-1] + "c")),
    Case("NotResource, listed", "identity", NOT_RES, NOT_RESOURCE, by_resource(None, NotResource=[PREFIX + "key/*"])),
    Case(
        "deny NotResource",
        "explicit",
        NOT_RES,
        NOT_RESOURCE,
        ask(user(), policy(allow(ALICE), deny(ALICE, resource=None, NotResource=KEY[:-1] + "c"))),
    ),
    Case("no Resource in a key policy", "resource", MISSING, KEY_POLICY, by_action("kms:*", resource=None)),
    Case("no Action in a key policy", "resource", MISSING, KEY_POLICY, by_action(None)),
    Case(
        "deny without Resource",
        "allow",
        MISSING,
        KEY_POLICY,
        ask(user(), policy(allow(ALICE), deny(ALICE, resource=None))),
    ),
    Case(
        "ListKeys on everything",
        "allow",
        NO_RESOURCE,
        "KMS Developer Guide, Permissions reference",
        ask(user("alice", policy(allow(None, "kms:ListKeys"))), None, "ListKeys", resource="*"),
    ),
    Case(
        "ListKeys on an ARN",
        "identity",
        NO_RESOURCE,
        "KMS Developer Guide, Permissions reference",
        ask(user("alice", policy(allow(None, "kms:ListKeys", "arn:aws:kms:*"))), None, "ListKeys", resource="*"),
    ),
    Case(
        "variable", "allow", VARIABLE, VARIABLES, by_resource(PREFIX + "alias/${aws:username}", PREFIX + "alias/alice")
    ),
    Case(
        "variable, other value",
        "identity",
        VARIABLE,
        VARIABLES,
        by_resource(PREFIX + "alias/${aws:username}", PREFIX + "alias/bob"),
    ),
    Case(
        "variable and wildcard",
        "allow",
        VARIABLE,
        VARIABLES,
        by_resource(PREFIX + "alias/${aws:username}/*", PREFIX + "alias/alice/db"),
    ),
    Case(
        "variable's name in another case",
        "allow",
        VARIABLE,
        VARIABLES,
        by_resource(PREFIX + "alias/${AWS:UserName}", PREFIX + "alias/alice"),
    ),
    Case(
        "tag of the principal",
        "allow",
        VARIABLE,
        VARIABLES,
        ask(
            user("alice", policy(allow(None, "kms:*", PREFIX + "alias/${aws:PrincipalTag/team}")), team="red"),
            DELEGATING,
            resource=PREFIX + "alias/red",
        ),
    ),
    Case(
        "tag that is not there",
        "identity",
        UNRESOLVED,
        VARIABLES,
        by_resource(PREFIX + "alias/${aws:PrincipalTag/team}", PREFIX + "alias/"),
    ),
    Case(
        "default",
        "allow",
        DEFAULT,
        VARIABLES,
        by_resource(PREFIX + "alias/${aws:PrincipalTag/team, 'none'}", PREFIX + "alias/none"),
    ),
    Case(
        "default not needed",
        "identity",
        DEFAULT,
        VARIABLES,
        by_resource(PREFIX + "alias/${aws:username, 'none'}", PREFIX + "alias/none"),
    ),
    Case(
        "old version, literal",
        "identity",
        OLD,
        VARIABLES,
        ask(
            user("alice", policy(allow(None, "kms:*", PREFIX + "alias/${aws:username}"), version="2008-10-17")),
            DELEGATING,
            resource=PREFIX + "alias/alice",
        ),
    ),
    Case(
        "no version, literal",
        "identity",
        OLD,
        VARIABLES,
        ask(
            user("alice", policy(allow(None, "kms:*", PREFIX + "alias/${aws:username}"), version=None)),
            DELEGATING,
            resource=PREFIX + "alias/alice",
        ),
    ),
    Case("literal asterisk", "identity", SPECIAL, VARIABLES, by_resource(PREFIX + "alias/${*}", PREFIX + "alias/x")),
    Case(
        "literal asterisk in a name",
        "allow",
        SPECIAL,
        VARIABLES,
        by_resource(PREFIX + "alias/${*}", PREFIX + "alias/*"),
    ),
    Case(
        "literal dollar",
        "allow",
        SPECIAL,
        VARIABLES,
        by_resource(PREFIX + "alias/${$}{aws:username}", PREFIX + "alias/${aws:username}"),
    ),
]
