"""The declaration of condition keys against AWS's published lists, and what a new policy must not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kmsd.authz import condition_keys
from kmsd.authz.absent_condition_keys import NOT_PROVIDED
from kmsd.authz.circumstances import Circumstances
from kmsd.authz.condition_keys import PROVIDED
from kmsd.authz.evaluate import authorize
from kmsd.authz.new_policy import parse_new
from kmsd.authz.policy_document import parse
from kmsd.authz.request import Allowed
from kmsd.authz.wildcard import fold
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from kmsd.operations.description import actions_with
from kmsd.services import OPERATIONS
from tests.authz_cases.support import ALICE, DELEGATING, ROOT, allow, ask, deny, policy, user

AWS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "aws_condition_keys.json").read_text())
DECLARED = {fold(key.name): key for key in PROVIDED}
ABSENT = {fold(name) for name in NOT_PROVIDED}


def _is_declared(name: str) -> bool:
    folded = fold(name.replace("${EncryptionContextKey}", "${encryptioncontextkey}"))
    return (
        folded in DECLARED
        or folded in ABSENT
        or any(folded.startswith(name.split("${")[0]) for name in ABSENT if "${" in name)
    )


def test_every_published_key_is_provided_or_not_for_a_reason() -> None:
    """All global keys, and all keys of KMS, CloudWatch Logs and STS, stand in just one of the two tables."""
    published = {*AWS["global"], *(name for names in AWS["services"].values() for name in names)}
    assert {name for name in published if not _is_declared(name)} == set()
    assert DECLARED.keys() & ABSENT == set()
    known = {fold(name) for name in published}
    assert {name for name in DECLARED if name not in known} == set()


def test_actions_have_the_keys_that_are_published_for_them() -> None:
    """Where AWS lists a provided key for an action of the daemon, the declaration has that action."""
    ours = {operation.action for operation in OPERATIONS} | {"kms:ReEncryptFrom", "kms:ReEncryptTo"}
    lacking = []
    for action, names in AWS["actions"].items():
        for name in names if action in ours else ():
            key = DECLARED.get(fold(name))
            if key is not None and action not in (actions_with(key, OPERATIONS) or {action}):
                lacking.append((action, name))
    assert lacking == []


DENIED_KEYS = [*NOT_PROVIDED, "kms:KeyOrgin", "s3:prefix"]


@pytest.mark.parametrize("kind", [PolicyKind.KEY, PolicyKind.IDENTITY, PolicyKind.SESSION, PolicyKind.TRUST])
@pytest.mark.parametrize("name", DENIED_KEYS)
def test_a_deny_on_a_key_that_is_never_provided_is_refused(name: str, kind: PolicyKind) -> None:
    """With the name of the key; the same condition in an Allow is accepted."""
    written = name.split("${", maxsplit=1)[0] + ("x" if "${" in name else "")
    who = ALICE if kind in (PolicyKind.KEY, PolicyKind.TRUST) else None
    action = "sts:AssumeRole" if kind is PolicyKind.TRUST else "kms:Encrypt"
    resource = None if kind is PolicyKind.TRUST else "*"
    condition = {"StringEquals": {written: "x"}}
    text = policy(deny(who, action, resource, Condition=condition))
    parse(text, kind=kind)  # as it may be stored already
    with pytest.raises(MalformedPolicyDocumentException, match="which is never provided here") as caught:
        parse_new(text, kind=kind)
    assert written in caught.value.message
    parse_new(policy(allow(who, action, resource, Condition=condition)), kind=kind)


@pytest.mark.parametrize(
    "statement",
    [
        deny(ALICE, Condition={"StringEquals": {"aws:ResourceTag/vpc": "${aws:SourceVpc}"}}),
        deny(ALICE, resource="arn:aws:kms:*:*:key/${aws:SourceVpc}"),
    ],
)
def test_a_variable_that_never_has_a_value_is_refused_in_a_deny(statement: dict[str, Any]) -> None:
    """Such a Deny would not apply either. A default gives it a value."""
    with pytest.raises(MalformedPolicyDocumentException, match="aws:sourcevpc"):
        parse_new(policy(statement), kind=PolicyKind.KEY)
    text = policy(statement).replace("${aws:SourceVpc}", "${aws:SourceVpc, 'none'}")
    parse_new(text, kind=PolicyKind.KEY)
    parse_new(policy(statement, version="2008-10-17"), kind=PolicyKind.KEY)  # `${` is plain text there


@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_a_statement_without_action_is_refused(effect: str) -> None:
    """It has no effect; a Deny without one denies nothing. Stored ones are read on."""
    text = policy(allow(ROOT), {**allow(ALICE, action=None), "Effect": effect})
    parse(text, kind=PolicyKind.KEY)
    with pytest.raises(MalformedPolicyDocumentException, match="Policy statement must contain actions"):
        parse_new(text, kind=PolicyKind.KEY)


def test_a_deny_without_resource_is_refused() -> None:
    """An Allow without one is stored and has no effect, as in AWS: it gives nothing away."""
    with pytest.raises(MalformedPolicyDocumentException, match="Policy statement must contain resources"):
        parse_new(policy(allow(ROOT), deny(ALICE, resource=None)), kind=PolicyKind.KEY)
    parse_new(policy(allow(ROOT), allow(ALICE, resource=None)), kind=PolicyKind.KEY)


@pytest.mark.parametrize(
    ("effect", "value", "allowed"),
    [
        ("Allow", "prod", False),
        ("Allow", "dev", False),
        ("Allow", "*", True),
        ("Deny", "prod", False),
        ("Deny", "dev", False),
    ],
)
def test_tags_that_differ_in_case_do_not_shadow_one_another(effect: str, value: str, allowed: bool) -> None:  # noqa: FBT001
    """Allow only if the condition holds for each of the values, Deny if it holds for any."""
    condition = {"StringLike": {"aws:ResourceTag/Env": value}}
    statements = (
        [allow(ALICE, Condition=condition)] if effect == "Allow" else [allow(ALICE), deny(ALICE, Condition=condition)]
    )
    query = ask(user(), policy(*statements))
    for tags in ({"Env": "prod", "env": "dev"}, {"env": "dev", "Env": "prod"}):
        found = authorize(replace(query, circumstances=Circumstances(tags=tags)))
        assert isinstance(found, Allowed) is allowed


def test_no_sign_outside_ascii_folds_into_a_letter() -> None:
    """The Kelvin sign, whose lower case is k, is no k: a tag of that name is another one."""
    query = ask(user(), policy(allow(ALICE, Condition={"StringEquals": {"aws:ResourceTag/Key": "ok"}})))
    assert not isinstance(authorize(replace(query, circumstances=Circumstances(tags={"\u212aey": "ok"}))), Allowed)
    assert isinstance(authorize(replace(query, circumstances=Circumstances(tags={"key": "ok"}))), Allowed)


def test_given_conditions_do_not_replace_what_follows_from_the_caller() -> None:
    """`kmsd explain --condition` can set what a request brings, and not who asks."""
    text = policy(allow(ALICE, Condition={"StringEquals": {"aws:username": "alice", "aws:SourceIp": "192.0.2.1"}}))
    query = ask(user(), text, given={"aws:username": "bob", "AWS:sourceip": "192.0.2.1"})
    assert isinstance(authorize(query), Allowed)
    assert not isinstance(authorize(replace(query, conditions={"aws:SourceIp": "192.0.2.2"})), Allowed)


def test_the_default_policy_may_be_stored() -> None:
    """So may AWS's own example of a guard against foreign networks."""
    parse_new(DELEGATING, kind=PolicyKind.KEY)
    guard = {"NotIpAddress": {"aws:SourceIp": ["192.0.2.0/24"]}, "Bool": {"aws:ViaAWSService": "false"}}
    parse_new(policy(deny(action="*", Condition=guard)), kind=PolicyKind.IDENTITY)
    assert condition_keys.find("aws:viaawsservice") is not None
