"""Who may retire a grant."""

from __future__ import annotations

import pytest

from kmsd.authz.grant_retirement import may_retire
from kmsd.authz.request import Allowed
from kmsd.domain.grant import Grant
from kmsd.domain.principal import Caller
from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    LOGS,
    MAY_ALL,
    ROOT_B,
    S1,
    A,
    B,
    C,
    allow,
    ask,
    deny,
    grant,
    policy,
    root,
    service,
    session,
    user,
)
from tests.support.decision_kind import sort_of

BOB = f"arn:aws:iam::{A}:user/bob"
MAY_RETIRE = policy(allow(None, "kms:RetireGrant"))
NOTHING = policy(allow(None, "s3:*"))
PLAIN = grant(ALICE)

# KMS Developer Guide, Retiring and revoking grants: the retiring principal; the grantee, if RetireGrant is among the
# operations; the account in which the grant was created. A Deny counts; an Allow in a key policy does not.
CASES: list[tuple[str, Caller, Grant, str, str]] = [
    ("grantee with RetireGrant", user(), grant(ALICE, "Encrypt", "RetireGrant"), CLOSED, "allow"),
    ("grantee without RetireGrant", user(), PLAIN, CLOSED, "identity"),
    ("retiring principal", user("bob"), grant(ALICE, retiring_principal=BOB), CLOSED, "allow"),
    ("neither, of the account, without permission", user("bob"), PLAIN, CLOSED, "identity"),
    ("neither, of the account, with permission", user("bob", MAY_RETIRE), PLAIN, CLOSED, "allow"),
    ("root of the account", root(), PLAIN, CLOSED, "allow"),
    ("key policy allows", user("bob"), PLAIN, policy(allow(BOB)), "identity"),
    ("another account", user("bob", MAY_RETIRE, account=B), PLAIN, CLOSED, "resource"),
    ("root of another account", root(B), PLAIN, CLOSED, "resource"),
    ("account that issued it on another's key", user("bob", MAY_RETIRE, account=B),
     grant(ALICE, issuing_account=B), CLOSED, "allow"),
    ("key's account, grant of another", user("bob", MAY_RETIRE), grant(ALICE, issuing_account=B), CLOSED, "resource"),
    ("retiring account, with permission", user("bob", MAY_RETIRE, account=B),
     grant(ALICE, retiring_principal=ROOT_B), CLOSED, "allow"),
    ("retiring account, without", user("bob", account=B), grant(ALICE, retiring_principal=ROOT_B), CLOSED, "identity"),
    ("retiring account, its root", root(B), grant(ALICE, retiring_principal=ROOT_B), CLOSED, "allow"),
    ("third account", user("bob", MAY_RETIRE, account=C), grant(ALICE, retiring_principal=ROOT_B), CLOSED, "resource"),
    ("retiring role", session(), grant(ALICE, retiring_principal=APP), CLOSED, "allow"),
    ("retiring role, bounded", session(bound=(NOTHING,)), grant(ALICE, retiring_principal=APP), CLOSED, "session"),
    ("retiring session, bounded", session(bound=(NOTHING,)), grant(ALICE, retiring_principal=S1), CLOSED, "allow"),
    ("retiring session of another name", session("app", "s2"), grant(ALICE, retiring_principal=S1), CLOSED, "identity"),
    ("bounded by what allows it", session(bound=(MAY_RETIRE,)), grant(ALICE, retiring_principal=APP), CLOSED, "allow"),
    ("permission, bounded", session("x", "s", MAY_ALL, bound=(NOTHING,)), PLAIN, CLOSED, "session"),
    ("retiring service", service(), grant(ALICE, retiring_principal=LOGS), CLOSED, "allow"),
    ("service of the account", service(), PLAIN, CLOSED, "resource"),
    ("denied by identity", user("alice", policy(deny(None, "kms:RetireGrant"))),
     grant(ALICE, "RetireGrant"), CLOSED, "explicit"),
    ("denied by the key policy", user(), grant(ALICE, "RetireGrant"), policy(deny("*", "kms:Retire*")), "explicit"),
    ("denied under a condition", user(), grant(ALICE, "RetireGrant"),
     policy(deny("*", Condition={"Null": {"kms:ViaService": "true"}})), "explicit"),
    ("grant on another key", user(), grant(ALICE, "RetireGrant", key_id="another"), CLOSED, "resource"),
    ("retiring principal of like name", user("bo"), grant(ALICE, retiring_principal=BOB), CLOSED, "identity"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "caller", "held", "key_policy", "expect"), CASES, ids=[case[0] for case in CASES])
def test_case(name: str, caller: Caller, held: Grant, key_policy: str, expect: str) -> None:
    """Those whom the grant or its account names, and nobody else."""
    query = ask(caller, key_policy, "RetireGrant", grants=(held,))
    decision = may_retire(query, held)
    assert sort_of(decision) == expect, decision
    if isinstance(decision, Allowed):
        assert decision.grant_ids == (held.grant_id,)
