"""What is a policy document, and what is refused with which sentence at which place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kmsd.authz.policy_document import MAX_DEPTH, MAX_LENGTH, MAX_VALUES, parse
from kmsd.domain.policy import Condition, Effect, PolicyKind, Principals
from kmsd.errors import MalformedPolicyDocumentException

KEY, IDENTITY, TRUST, SESSION = PolicyKind.KEY, PolicyKind.IDENTITY, PolicyKind.TRUST, PolicyKind.SESSION
STATEMENT: dict[str, Any] = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
ALICE = "arn:aws:iam::111122223333:user/alice"


def document(**elements: Any) -> str:
    """A key policy of one statement, with elements changed; None takes one away."""
    statement = {name: value for name, value in (STATEMENT | elements).items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def refusal(text: str, kind: PolicyKind = KEY) -> str:
    """The message with which `text` is refused."""
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        parse(text, kind=kind)
    return caught.value.message


def test_everything_is_read() -> None:
    """All elements of a document come out in order."""
    policy = parse(
        document(
            Sid="Allow use",
            Principal={"AWS": ["111122223333", ALICE, "*"], "Service": "logs.us-east-1.amazonaws.com"},
            Action=["kms:Encrypt", "kms:Decrypt"],
            Condition={"StringLike": {"kms:ViaService": "s3.*"}, "NumericLessThan": {"kms:x": [1, 2.50, "3"]}},
        ),
        kind=KEY,
    )
    (statement,) = policy.statements
    assert (statement.sid, statement.label, statement.effect) == ("Allow use", "Allow use", Effect.ALLOW)
    assert statement.principals == Principals(
        everyone=True, accounts=("111122223333",), entities=(ALICE,), services=("logs.us-east-1.amazonaws.com",)
    )
    assert statement.actions == ("kms:Encrypt", "kms:Decrypt")
    assert statement.resources == ("*",)
    assert statement.conditions == (
        Condition("StringLike", "kms:ViaService", ("s3.*",)),
        Condition("NumericLessThan", "kms:x", ("1", "2.5", "3")),
    )


def test_statement_may_stand_alone() -> None:
    """One statement needs no list; without Version a document is of 2008; without Sid its label is its number."""
    policy = parse(json.dumps({"Id": "key-default-1", "Statement": STATEMENT}), kind=KEY)
    assert (policy.version, policy.policy_id, policy.has_variables) == ("2008-10-17", "key-default-1", False)
    assert policy.statements[0].label == "#0"


@pytest.mark.parametrize(
    "principal",
    [
        "*",
        {"AWS": "111122223333"},
        {"AWS": "arn:aws:iam::111122223333:root"},
        {"AWS": "arn:aws-us-gov:iam::111122223333:user/division/x+y=z,.@-_"},
        {"AWS": "arn:aws:iam::111122223333:role/aws-service-role/x.amazonaws.com/App"},
        {"AWS": "arn:aws:sts::111122223333:assumed-role/app/i-0123"},
        {"AWS": "arn:aws:sts::111122223333:federated-user/bob"},
        {"Service": ["logs.us-east-1.amazonaws.com", "cloudtrail.amazonaws.com", "x.amazonaws.com.cn"]},
        {"Federated": "arn:aws:iam::111122223333:saml-provider/corp"},
        {"CanonicalUser": "79a59df900b949e55d96a1e698fbaced"},
    ],
)
def test_principals_that_are_accepted(principal: Any) -> None:
    """Every form that the documentation lists."""
    assert parse(document(Principal=principal), kind=KEY).statements[0].principals is not None


INVALID_PRINCIPALS = "Policy contains a statement with one or more invalid principals."


@pytest.mark.parametrize(
    "value",
    [
        "alice",
        "",
        "11112222333",
        "1111222233334",
        "\u0661" * 12,
        "arn:aws:iam::111122223333:user/*",
        "arn:aws:iam::111122223333:user/al*",
        "arn:aws:iam::111122223333:user/?lice",
        "arn:aws:iam::111122223333:*",
        "arn:aws:iam::*:root",
        "arn:aws:iam::111122223333:root/x",
        "arn:aws:iam::111122223333:group/admins",
        "arn:aws:iam::111122223333:user/",
        "arn:aws:iam:us-east-1:111122223333:user/alice",
        "arn:aws:iam::111122223333:user/al\u0456ce",
        "arn:aws:iam::111122223333:user/alice\n",
        "arn:aws:iam::111122223333:user/${aws:username}",
        "arn:aws:sts::111122223333:assumed-role/app/*",
        "arn:aws:sts::111122223333:assumed-role/app",
        "arn:aws:sts::111122223333:assumed-role/path/app/s1",
        "arn:AWS:iam::111122223333:user/alice",
        "AIDACKCEVSQ6C2EXAMPLE",
        "**",
    ],
)
def test_principals_that_are_refused(value: str) -> None:
    """No wildcard within a name, no other script, no other kind of ARN; the place is named."""
    assert (
        refusal(document(Principal={"AWS": [ALICE, value]})) == f"{INVALID_PRINCIPALS} (Statement[0].Principal.AWS[1])"
    )


@pytest.mark.parametrize("value", ["*", "logs.*.amazonaws.com", "logs", "LOGS.amazonaws.com", "evil.example.com", ""])
def test_services_that_are_refused(value: str) -> None:
    """A service principal is written out and belongs to AWS's names."""
    assert (
        refusal(document(Principal={"Service": value})) == f"{INVALID_PRINCIPALS} (Statement[0].Principal.Service[0])"
    )


IDENTITY_STATEMENT = {"Principal": None}
TRUST_STATEMENT = {"Action": "sts:AssumeRole", "Resource": None}
CASES: list[tuple[PolicyKind, str, str]] = [
    (KEY, "", "This policy contains invalid Json"),
    (KEY, "{", "This policy contains invalid Json"),
    (KEY, "{'Statement': []}", "This policy contains invalid Json"),
    (KEY, '{"Version": NaN}', "This policy contains invalid Json"),
    (KEY, '{"Statement": [1,]}', "This policy contains invalid Json"),
    (KEY, '{"Version":"2012-10-17"} x', "This policy contains invalid Json"),
    (KEY, "\ufeff{}", "Syntax errors in policy. (has characters that a policy cannot hold)"),
    (KEY, '{"Id": "\u0430"}', "Syntax errors in policy. (has characters that a policy cannot hold)"),
    (KEY, "[]", "Syntax errors in policy. (must be an object)"),
    (KEY, '"x"', "Syntax errors in policy. (must be an object)"),
    (KEY, "null", "Syntax errors in policy. (must be an object)"),
    (KEY, "7", "Syntax errors in policy. (must be an object)"),
    (KEY, "{}", "Syntax errors in policy. (Statement is missing)"),
    (KEY, '{"Statement": null}', "Syntax errors in policy. (Statement must be a list)"),
    (KEY, '{"Statement": []}', "Syntax errors in policy. (Statement is an empty list)"),
    (KEY, '{"Statement": [[]]}', "Syntax errors in policy. (Statement[0] must be an object)"),
    (KEY, '{"Version": "2012-10-18", "Statement": []}', "(Version must be one of 2008-10-17 and 2012-10-17)"),
    (KEY, '{"Version": null, "Statement": []}', "(Version must be one of 2008-10-17 and 2012-10-17)"),
    (KEY, '{"Id": null, "Statement": []}', "Syntax errors in policy. (Id must be a string)"),
    (KEY, '{"Id": 1, "Statement": []}', "Syntax errors in policy. (Id must be a string)"),
    (KEY, '{"statement": []}', "(statement is not an element of the policy language)"),
    (KEY, '{"Statement": [], "Statement": []}', "Syntax errors in policy. (Statement stands there twice)"),
    (KEY, '{"Statement": [{"Effect": "Allow", "Effect": "Deny"}]}', "(Statement[0].Effect stands there twice)"),
    (KEY, document(Effect=None), "(Statement[0].Effect is missing)"),
    (KEY, document(Effect="allow"), "(Statement[0].Effect must be Allow or Deny)"),
    (KEY, document(Effect=["Allow"]), "(Statement[0].Effect must be Allow or Deny)"),
    (KEY, document(Effekt="Allow"), "(Statement[0].Effekt is not an element of the policy language)"),
    (KEY, document(Sid=1), "(Statement[0].Sid must be a string)"),
    (KEY, document(Sid="a\nb"), "(Statement[0].Sid has characters that cannot be printed)"),
    (KEY, document(Principal=None), "Policy contains a statement with no principal. (Statement[0])"),
    (KEY, document(Principal={}), "Policy contains a statement with no principal. (Statement[0].Principal)"),
    (KEY, document(Principal={"AWS": []}), "(Statement[0].Principal.AWS is an empty list)"),
    (KEY, document(Principal=ALICE), f"{INVALID_PRINCIPALS} (Statement[0].Principal)"),
    (KEY, document(Principal=["*"]), f"{INVALID_PRINCIPALS} (Statement[0].Principal)"),
    (KEY, document(Principal={"aws": "*"}), "(Statement[0].Principal.aws is not an element of the policy language)"),
    (KEY, document(Principal={"AWS": 111122223333}), "(Statement[0].Principal.AWS must be a string)"),
    (KEY, document(NotPrincipal="*"), "(Statement[0] cannot have both Principal and NotPrincipal)"),
    (KEY, document(NotAction="*"), "(Statement[0] cannot have both Action and NotAction)"),
    (KEY, document(NotResource="*"), "(Statement[0] cannot have both Resource and NotResource)"),
    (KEY, document(Principal=None, NotPrincipal={"AWS": []}), "(Statement[0].NotPrincipal.AWS is an empty list)"),
    (KEY, document(Action=None, NotAction=[]), "(Statement[0].NotAction is an empty list)"),
    (KEY, document(Resource=None, NotResource=[]), "(Statement[0].NotResource is an empty list)"),
    (KEY, document(Action=[]), "(Statement[0].Action is an empty list)"),
    (KEY, document(Action={"a": "b"}), "(Statement[0].Action must be a string)"),
    (KEY, document(Action=[["kms:*"]]), "(Statement[0].Action[0] must be a string)"),
    (
        KEY,
        '{"Statement": {"Effect": "Allow", "Principal": "*", "Action": null}}',
        "(Statement[0].Action must not be null)",
    ),
    (
        KEY,
        document(Action=["kms:*", "Encrypt"]),
        "prefaced by a vendor, e.g., iam, sdb, ec2, etc. (Statement[0].Action[1])",
    ),
    (KEY, document(Action="k*:Encrypt"), "prefaced by a vendor, e.g., iam, sdb, ec2, etc. (Statement[0].Action[0])"),
    (
        KEY,
        document(Action="kms:Encr\u0443pt"),
        "prefaced by a vendor, e.g., iam, sdb, ec2, etc. (Statement[0].Action[0])",
    ),
    (KEY, document(Action="kms:"), "(Statement[0].Action[0])"),
    (KEY, document(Action="kms:${aws:username}"), "(Statement[0].Action[0])"),
    (KEY, document(Resource="key/1"), 'Resource key/1 must be in ARN format or "*". (Statement[0].Resource[0])'),
    (KEY, document(Resource="*:key/1"), '"*". (Statement[0].Resource[0])'),
    (KEY, document(Resource="arn:aws:kms:*:key/1"), '"*". (Statement[0].Resource[0])'),
    (KEY, document(Resource=["*", "arn:aws:kms"]), '"*". (Statement[0].Resource[1])'),
    (
        KEY,
        document(Resource="arn:aws:kms:${aws:x}:1:key/1"),
        "last part of a resource's ARN only. (Statement[0].Resource[0])",
    ),
    (
        KEY,
        document(Resource="arn:aws:kms:a:1:key/${aws:x"),
        "a policy variable is not closed (Statement[0].Resource[0])",
    ),
    (KEY, document(Resource="arn:aws:kms:a:1:key/${x}"), "names no condition key (Statement[0].Resource[0])"),
    (KEY, document(Resource=True), "(Statement[0].Resource must be a string)"),
    (IDENTITY, document(), "Policy document should not specify a principal. (Statement[0].Principal)"),
    (SESSION, document(), "Policy document should not specify a principal. (Statement[0].Principal)"),
    (IDENTITY, document(Principal=None, NotPrincipal="*"), "not specify a principal. (Statement[0].NotPrincipal)"),
    (IDENTITY, document(Principal=None, Action=None), "Policy statement must contain actions. (Statement[0])"),
    (IDENTITY, document(Principal=None, Resource=None), "Policy statement must contain resources. (Statement[0])"),
    (IDENTITY, document(Principal=None, Sid="a b"), "Statement IDs (SID) must be alpha-numeric. (Statement[0].Sid)"),
    (IDENTITY, '{"Id": "x", "Statement": []}', "Has prohibited field Id (Id)"),
    (TRUST, document(**TRUST_STATEMENT | {"Resource": "*"}), "Has prohibited field Resource (Statement[0].Resource)"),
    (
        TRUST,
        document(**TRUST_STATEMENT | {"Principal": None}),
        "Policy contains a statement with no principal. (Statement[0])",
    ),
    (
        TRUST,
        document(**TRUST_STATEMENT | {"Action": "kms:*"}),
        "only specify STS AssumeRole actions. (Statement[0].Action[0])",
    ),
    (
        TRUST,
        document(**TRUST_STATEMENT | {"Action": "*"}),
        "only specify STS AssumeRole actions. (Statement[0].Action[0])",
    ),
    (TRUST, document(**TRUST_STATEMENT | {"Action": None}), "Policy statement must contain actions. (Statement[0])"),
]


@pytest.mark.parametrize(("kind", "text", "message"), CASES)
def test_refusals(kind: PolicyKind, text: str, message: str) -> None:
    """The message begins with AWS's sentence where one is known, and ends with the place."""
    assert message in refusal(text, kind)


def test_sids_are_unique() -> None:
    """As in IAM; an empty Sid is none."""
    alone = document(**IDENTITY_STATEMENT | {"Sid": "AllowUse1"})
    assert parse(alone, kind=IDENTITY).statements[0].sid == "AllowUse1"
    two = json.dumps({"Statement": [STATEMENT | {"Sid": "a"}, STATEMENT | {"Sid": "a"}]})
    assert refusal(two) == "Statement IDs (SID) in a single policy must be unique. (Statement[1].Sid)"
    assert len(parse(two.replace('"a"', '""'), kind=KEY).statements) == 2


def test_key_policy_keeps_statements_without_effect() -> None:
    """A key policy may lack Action or Resource: it is stored."""
    assert parse(document(Action=None), kind=KEY).statements[0].actions is None
    assert parse(document(Resource=None), kind=KEY).statements[0].resources is None


def test_the_other_kinds_are_read() -> None:
    """Identity, session and trust policies in their proper form."""
    assert parse(document(**IDENTITY_STATEMENT), kind=IDENTITY).statements[0].principals is None
    assert parse(document(**IDENTITY_STATEMENT), kind=SESSION).statements[0].principals is None
    assert parse(document(**TRUST_STATEMENT), kind=TRUST).statements[0].resources is None


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 100_000,
        '{"Statement":' * 5_000 + "1" + "}" * 5_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"Statement": [' + "1," * MAX_VALUES + "1]}",
        " " * (MAX_LENGTH + 1),
        '"' + '\\"' * 60_000,
        "9" * 100_000,
        '{"Statement": ' + "9" * 60_000 + "}",
        document(Condition={"StringEquals": {"aws:x": "${" * 10_000}}),
        document(Resource="arn:aws:kms:a:1:" + "?" * 30_000),
        document(Principal={"AWS": "arn:aws:iam::111122223333:user/" + "a/" * 15_000 + "!"}),
        '{"Id": "\\ud800", "Statement": []}',
        '{"\\ud800": 1}',
    ],
)
@pytest.mark.timeout(5)
def test_bombs(bomb: str) -> None:
    """Deep, long and twisted texts are refused at once, and the message stays short and printable."""
    message = refusal(bomb)
    assert len(message) < 400
    assert message.isascii()
    assert message.isprintable()


def test_a_full_policy_is_read() -> None:
    """150 statements in 32 KiB are within all bounds."""
    listed = [
        STATEMENT
        | {
            "Sid": f"s{number}",
            "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"],
            "Condition": {"StringEquals": {"kms:EncryptionContext:Department": [f"d{number}"]}},
        }
        for number in range(150)
    ]
    text = json.dumps({"Version": "2012-10-17", "Statement": listed}).ljust(32_768)
    assert len(parse(text, kind=KEY).statements) == 150
