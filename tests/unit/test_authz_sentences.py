"""AWS's sentences, whole."""

from __future__ import annotations

import pytest

from kmsd.authz.evaluate import authorize
from kmsd.authz.request import AuthorizationRequest, Denied
from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    KEY,
    MAY_ALL,
    ROOT,
    S1,
    allow,
    ask,
    deny,
    grant,
    policy,
    session,
    user,
)

OPENING = f"User: {ALICE} is not authorized to perform: kms:Encrypt on resource: {KEY} "
OF_SESSION = OPENING.replace(ALICE, S1)
NOTHING = policy(allow(None, "s3:*"))


@pytest.mark.parametrize(
    ("query", "message", "reason"),
    [
        (
            ask(user(), CLOSED),
            OPENING + "because no resource-based policy allows the kms:Encrypt action",
            "no resource-based policy allows",
        ),
        (
            ask(user()),
            OPENING + "because no identity-based policy allows the kms:Encrypt action",
            "key-policy:#0 delegates, no identity-policy allows",
        ),
        (
            ask(session("app", "s1", MAY_ALL, bound=(NOTHING,))),
            OF_SESSION + "because no session policy allows the kms:Encrypt action",
            "identity-policy:#0 allows, no session-policy does",
        ),
        (
            ask(session(bound=(NOTHING,)), CLOSED, grants=(grant(APP),)),
            OF_SESSION + "because no session policy allows the kms:Encrypt action",
            f"grant:{'ab' * 32} allows, no session-policy does",
        ),
        (
            ask(user("alice", MAY_ALL), policy(allow(ROOT), deny(ALICE, Sid="Stop"))),
            OPENING + "with an explicit deny in a resource-based policy",
            "key-policy:Stop denies",
        ),
        (
            ask(user("alice", MAY_ALL, policy(deny()))),
            OPENING + "with an explicit deny in an identity-based policy",
            "identity-policy:#0 denies",
        ),
        (
            ask(session("app", "s1", MAY_ALL, bound=(policy(deny()),))),
            OF_SESSION + "with an explicit deny in a session policy",
            "session-policy:#0 denies",
        ),
        (
            ask(user("alice"), None, "CreateKey", resource="*"),
            (
                f"User: {ALICE} is not authorized to perform: kms:CreateKey on resource: * "
                "because no identity-based policy allows the kms:CreateKey action"
            ),
            "account delegates, no identity-policy allows",
        ),
        (
            ask(user(), policy(allow("*", "sts:TagSession", None)), "sts:AssumeRole", resource=APP),
            (
                f"User: {ALICE} is not authorized to perform: sts:AssumeRole on resource: {APP} "
                "because no role trust policy allows the sts:AssumeRole action"
            ),
            "no resource-based policy allows",
        ),
        (
            ask(user(), policy(deny("*", "sts:*", None)), "sts:AssumeRole", resource=APP),
            (
                f"User: {ALICE} is not authorized to perform: sts:AssumeRole on resource: {APP} "
                "with an explicit deny in the role trust policy"
            ),
            "trust-policy:#0 denies",
        ),
    ],
)
def test_sentence(query: AuthorizationRequest, message: str, reason: str) -> None:
    """Client and audit record each get their words."""
    assert authorize(query) == Denied(reason, message)
