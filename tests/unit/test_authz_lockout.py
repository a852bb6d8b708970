"""The check against lock-out, and the default key policy."""

from __future__ import annotations

import pytest

from kmsd.authz import lockout
from kmsd.authz.policy_document import parse
from kmsd.domain.policy import PolicyKind
from kmsd.domain.principal import Caller
from kmsd.errors import MalformedPolicyDocumentException
from tests.authz_cases.support import (
    ALICE,
    APP,
    DELEGATING,
    MAY_ALL,
    ROOT,
    A,
    allow,
    ask,
    deny,
    policy,
    root,
    session,
    user,
)

SENTENCE = "The new key policy will not allow you to update the key policy in the future."


@pytest.mark.parametrize(
    ("caller", "new"),
    [
        (user(), policy(allow(ALICE, "kms:PutKeyPolicy"))),
        (user("alice", MAY_ALL), DELEGATING),
        (root(), DELEGATING),
        (session(), policy(allow(APP, "kms:Put*"))),
        (user("alice", MAY_ALL), lockout.default_key_policy(A, "aws")),
    ],
)
def test_accepted(caller: Caller, new: str) -> None:
    """The caller can put the next policy, by the new policy itself or by delegation."""
    lockout.check(ask(caller, DELEGATING, "PutKeyPolicy"), new)


@pytest.mark.parametrize(
    ("caller", "new"),
    [
        (user(), policy(allow(ALICE, "kms:GetKeyPolicy"))),
        (user("alice", MAY_ALL), policy(allow(f"arn:aws:iam::{A}:user/bob"))),
        (user(), DELEGATING),
        (user("alice", MAY_ALL), policy(allow(ROOT), deny(ALICE, "kms:PutKeyPolicy"))),
        (user(), policy(allow(ALICE, resource=None))),
        (user(), policy(allow(ALICE, Condition={"StringEquals": {"kms:ViaService": "x"}}))),
        (root(), policy(allow(ALICE))),
    ],
)
def test_refused_unless_bypassed(caller: Caller, new: str) -> None:
    """A caller who could not put the next policy is told so, unless it asks to bypass the check."""
    query = ask(caller, DELEGATING, "CreateKey")
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        lockout.check(query, new)
    assert caught.value.message == SENTENCE
    lockout.check(query, new, bypass=True)


def test_default_key_policy() -> None:
    """AWS's text, its layout included."""
    text = lockout.default_key_policy("111122223333", "aws-cn")
    assert text.splitlines()[:5] == [
        "{",
        '  "Version" : "2012-10-17",',
        '  "Id" : "key-default-1",',
        '  "Statement" : [ {',
        '    "Sid" : "Enable IAM User Permissions",',
    ]
    policy_read = parse(text, kind=PolicyKind.KEY)
    (statement,) = policy_read.statements
    assert policy_read.policy_id == "key-default-1"
    assert statement.principals is not None
    assert statement.principals.accounts == ("arn:aws-cn:iam::111122223333:root",)
    assert (statement.actions, statement.resources, statement.conditions) == (("kms:*",), ("*",), ())
