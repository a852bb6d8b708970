"""Session tags and source identity over the wire: what a session keeps, who may set it, and what policies see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.clients import ACCOUNT, Credentials, code_of
from tests.support.harness import Harness
from tests.support.roles import allow, make_role, session_of

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALL = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]


def role_of(harness: Harness, name: str, *actions: str, policy: Any = None, **more: Any) -> str:
    """A role that the account trusts with these actions."""
    statement = {"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": list(actions), **more}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    return make_role(harness, name, trust, policy or allow("kms:ListKeys", "sts:*"))


def tags(**pairs: str) -> list[dict[str, str]]:
    """The member Tags."""
    return [{"Key": name, "Value": value} for name, value in pairs.items()]


def assume(harness: Harness, role: str, credentials: Credentials | None = None, **members: Any) -> Credentials:
    """A session."""
    answer = harness.client("sts", credentials).assume_role(RoleArn=role, RoleSessionName="session", **members)
    assert answer.get("SourceIdentity") == members.get("SourceIdentity", answer.get("SourceIdentity"))
    return session_of(answer["Credentials"])


def refused(harness: Harness, role: str, credentials: Credentials | None = None, **members: Any) -> str:
    """The name of the error."""
    return code_of(lambda: assume(harness, role, credentials, **members))


def only_if(**condition: Any) -> dict[str, Any]:
    """An identity policy that allows ListKeys under a condition, and STS."""
    policy = allow("kms:ListKeys", Condition={"StringEquals": condition})
    policy["Statement"] += allow("sts:*")["Statement"]
    return policy


def may_list(harness: Harness, credentials: Credentials) -> bool:
    """Whether the policy's condition holds for the session."""
    return code_of(harness.client("kms", credentials).list_keys) == ""


def test_principal_tags(harness: Harness) -> None:
    """Policies see the session's tags, over those of the role."""
    role = role_of(harness, "abac", *ALL, policy=only_if(**{"aws:PrincipalTag/Team": "blue"}))
    assert may_list(harness, assume(harness, role, Tags=tags(team="blue", other="x")))
    assert not may_list(harness, assume(harness, role, Tags=tags(team="red")))
    assert not may_list(harness, assume(harness, role))


def test_who_may_tag(harness: Harness) -> None:
    """The trust policy, and the caller's own, must allow sts:TagSession; without tags nothing of it is needed."""
    plain = role_of(harness, "untagged", "sts:AssumeRole")
    assert refused(harness, plain, Tags=tags(a="b")) == "AccessDenied"
    assume(harness, plain)
    role = role_of(harness, "tagged", *ALL)
    user = harness.user(allow("sts:AssumeRole"))
    assume(harness, role, user)
    assert refused(harness, role, user, Tags=tags(a="b")) == "AccessDenied"
    tagger = harness.user(allow("sts:AssumeRole", "sts:TagSession"))
    assume(harness, role, tagger, Tags=tags(a="b"))


def test_conditions_on_requested_tags(harness: Harness) -> None:
    """`aws:RequestTag`, `aws:TagKeys` and `sts:TransitiveTagKeys` are those of the request."""
    condition = {
        "StringEquals": {"aws:RequestTag/team": "blue"},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["team", "stage"], "sts:TransitiveTagKeys": ["team"]},
    }
    role = role_of(harness, "requested", *ALL, Condition=condition)
    assume(harness, role, Tags=tags(team="blue", stage="x"), TransitiveTagKeys=["team"])
    assert refused(harness, role, Tags=tags(team="red")) == "AccessDenied"
    assert refused(harness, role, Tags=tags(team="blue", more="x")) == "AccessDenied"
    assert refused(harness, role, Tags=tags(team="blue", stage="x"), TransitiveTagKeys=["stage"]) == "AccessDenied"


def test_a_chain_of_roles(harness: Harness) -> None:
    """Transitive tags go on, for good, and cannot be replaced; others end with the session."""
    first = role_of(harness, "chain-1", *ALL)
    second = role_of(harness, "chain-2", *ALL, policy=only_if(**{"aws:PrincipalTag/team": "blue"}))
    third = role_of(harness, "chain-3", *ALL, policy=only_if(**{"aws:PrincipalTag/team": "blue"}))
    one = assume(harness, first, Tags=tags(team="blue", stage="x"), TransitiveTagKeys=["Team"])
    two = assume(harness, second, one, Tags=tags(stage="y"))
    assert may_list(harness, two)
    assert may_list(harness, assume(harness, third, two))
    assert refused(harness, second, one, Tags=tags(TEAM="red")) == "ValidationError"
    plain = assume(harness, first, Tags=tags(team="blue"))
    assert not may_list(harness, assume(harness, second, plain))
    untrusting = role_of(harness, "chain-4", "sts:AssumeRole")
    assert refused(harness, untrusting, one) == "AccessDenied"
    assume(harness, untrusting, plain)


def test_source_identity(harness: Harness) -> None:
    """It is set once, goes on through a chain, is in every record of the session, and policies see it."""
    first = role_of(harness, "source-1", *ALL)
    second = role_of(harness, "source-2", *ALL, policy=only_if(**{"aws:SourceIdentity": "alice"}))
    one = assume(harness, first, SourceIdentity="alice")
    two = assume(harness, second, one)
    assert may_list(harness, two)
    assert harness.records()[-1]["userIdentity"]["sessionContext"]["sourceIdentity"] == "alice"
    assert refused(harness, second, one, SourceIdentity="bob") == "ValidationError"
    assume(harness, second, one, SourceIdentity="alice")
    assert not may_list(harness, assume(harness, second, SourceIdentity="bob"))


def test_who_may_set_the_source_identity(harness: Harness) -> None:
    """The trust policy must allow sts:SetSourceIdentity, for a session that inherits one too; it may bind the value."""
    plain = role_of(harness, "sourceless", "sts:AssumeRole")
    assert refused(harness, plain, SourceIdentity="alice") == "AccessDenied"
    bound = role_of(harness, "bound", *ALL, Condition={"StringLike": {"sts:SourceIdentity": "al*"}})
    session = assume(harness, bound, SourceIdentity="alice")
    assert refused(harness, bound, SourceIdentity="bob") == "AccessDenied"
    assert refused(harness, plain, session) == "AccessDenied"


@pytest.mark.parametrize(
    "members",
    [
        {"Tags": tags(a="1", A="2")},
        {"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "1"}]},
        {"Tags": tags(**{"aws:x": "1"})},
        {"Tags": [{"Key": "a" * 129, "Value": "1"}]},
        {"Tags": [{"Key": "a", "Value": "1" * 257}]},
        {"Tags": [{"Key": "", "Value": "1"}]},
        {"Tags": [{"Key": "a*", "Value": "1"}]},
        {"Tags": [{"Key": f"a{number}", "Value": ""} for number in range(51)]},
        {"Tags": tags(a="1"), "TransitiveTagKeys": ["b"]},
        {"TransitiveTagKeys": ["a"]},
        {"SourceIdentity": "x"},
        {"SourceIdentity": "a b"},
        {"SourceIdentity": "a" * 65},
    ],
    ids=str,
)
def test_what_is_refused(harness: Harness, members: dict[str, Any]) -> None:
    """Bad input changes nothing."""
    role = f"arn:aws:iam::{ACCOUNT}:role/strict"
    if code_of(lambda: assume(harness, role)) == "AccessDenied":
        role_of(harness, "strict", *ALL)
    sts = harness.client("sts", parameter_validation=False)
    code = code_of(lambda: sts.assume_role(RoleArn=role, RoleSessionName="session", **members))
    assert code == "ValidationError"
