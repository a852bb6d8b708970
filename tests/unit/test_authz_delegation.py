"""Grant chains: what a grantee with CreateGrant may hand on."""

from __future__ import annotations

from typing import Any

import pytest

from kmsd.authz.evaluate import authorize
from kmsd.authz.grant_delegation import covers, may_delegate
from kmsd.authz.request import Allowed, Denied
from tests.authz_cases.support import ALICE, CLOSED, MAY_ALL, ask, grant, user

BOB = "arn:aws:iam::111122223333:user/bob"
IT = {"Department": "IT"}
BOTH = {"Department": "IT", "Purpose": "Test"}
PARENT = ("GenerateDataKey", "Decrypt", "CreateGrant")

# KMS Developer Guide, Granting CreateGrant permission: some or all of the parent's operations, constraints at least as
# strict; pairs can be added to a Subset and not removed; a Subset can become an Equals and not the reverse.
CASES: list[tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any], bool]] = [
    ("same", {}, PARENT, {}, True),
    ("fewer operations", {}, ("Decrypt",), {}, True),
    ("without operations that the parent lacks", {}, ("CreateGrant",), {}, True),
    ("one operation more", {}, (*PARENT, "Encrypt"), {}, False),
    ("another operation", {}, ("ReEncryptFrom",), {}, False),
    ("RetireGrant, not held", {}, ("Decrypt", "RetireGrant"), {}, False),
    ("a constraint where there was none", {}, ("Decrypt",), {"equals": IT}, True),
    ("same subset", {"subset": IT}, ("Decrypt",), {"subset": IT}, True),
    ("larger subset", {"subset": IT}, ("Decrypt",), {"subset": BOTH}, True),
    ("smaller subset", {"subset": BOTH}, ("Decrypt",), {"subset": IT}, False),
    ("empty subset", {"subset": IT}, ("Decrypt",), {"subset": {}}, False),
    ("no constraint below a subset", {"subset": IT}, ("Decrypt",), {}, False),
    ("other subset", {"subset": IT}, ("Decrypt",), {"subset": {"Department": "HR"}}, False),
    ("subset with the key's case changed", {"subset": IT}, ("Decrypt",), {"subset": {"department": "IT"}}, False),
    ("subset to equals", {"subset": IT}, ("Decrypt",), {"equals": IT}, True),
    ("subset to larger equals", {"subset": IT}, ("Decrypt",), {"equals": BOTH}, True),
    ("subset to smaller equals", {"subset": BOTH}, ("Decrypt",), {"equals": IT}, False),
    ("subset to empty equals", {"subset": IT}, ("Decrypt",), {"equals": {}}, False),
    ("same equals", {"equals": IT}, ("Decrypt",), {"equals": IT}, True),
    ("equals to larger equals", {"equals": IT}, ("Decrypt",), {"equals": BOTH}, False),
    ("equals to smaller equals", {"equals": BOTH}, ("Decrypt",), {"equals": IT}, False),
    ("equals to subset", {"equals": IT}, ("Decrypt",), {"subset": IT}, False),
    ("equals to larger subset", {"equals": IT}, ("Decrypt",), {"subset": BOTH}, False),
    ("equals to no constraint", {"equals": IT}, ("Decrypt",), {}, False),
    ("empty equals to no constraint", {"equals": {}}, ("Decrypt",), {}, False),
    ("empty subset is no constraint", {"subset": {}}, ("Decrypt",), {}, True),
    ("unconstrained operation below a constraint", {"subset": IT}, ("CreateGrant",), {}, False),
    ("another key", {}, ("Decrypt",), {"key_id": "another"}, False),
]


@pytest.mark.parametrize(("name", "parent", "operations", "child", "allowed"), CASES, ids=[case[0] for case in CASES])
def test_case(
    name: str, parent: dict[str, Any], operations: tuple[str, ...], child: dict[str, Any], *, allowed: bool
) -> None:
    """What the parent covers may be handed on, and nothing else."""
    held = grant(ALICE, *PARENT, **parent)
    wanted = grant(BOB, *operations, **child, grant_id="cd" * 32)
    assert covers(held, wanted) is allowed
    query = ask(user(), CLOSED, "CreateGrant", grants=(held,))
    granted = authorize(query)
    assert isinstance(granted, Allowed)
    answer = may_delegate(query, granted, wanted)
    assert isinstance(answer, Allowed if allowed else Denied)


def test_without_create_grant_nothing_is_handed_on() -> None:
    """Only a parent that gives CreateGrant covers anything."""
    assert not covers(grant(ALICE, "Decrypt"), grant(BOB, "Decrypt"))


def test_policies_give_the_right_without_limit() -> None:
    """These limitations do not apply to principals who get CreateGrant from a policy."""
    query = ask(user("alice", MAY_ALL), operation="CreateGrant", grants=(grant(ALICE, "CreateGrant"),))
    granted = authorize(query)
    assert granted == Allowed("identity-policy:#0")
    assert may_delegate(query, granted, grant(BOB, "Encrypt", "Decrypt")) == granted


def test_grants_are_not_joined() -> None:
    """Two parents with one operation each do not make one child with both; either makes its own."""
    one = grant(ALICE, "CreateGrant", "Encrypt", grant_id="01" * 32)
    two = grant(ALICE, "CreateGrant", "Decrypt", grant_id="02" * 32)
    query = ask(user(), CLOSED, "CreateGrant", grants=(one, two))
    granted = authorize(query)
    assert granted == Allowed(f"grant:{one.grant_id}", (one.grant_id, two.grant_id))
    assert isinstance(may_delegate(query, granted, grant(BOB, "Encrypt", "Decrypt")), Denied)
    assert may_delegate(query, granted, grant(BOB, "Decrypt")) == Allowed(f"grant:{two.grant_id}", (two.grant_id,))


def test_a_grant_of_another_principal_is_no_parent() -> None:
    """A grant that was passed by its token, but is another's, neither allows CreateGrant nor covers."""
    mine = grant(ALICE, "CreateGrant", "Encrypt", grant_id="01" * 32)
    anothers = grant(BOB, "CreateGrant", "Decrypt", grant_id="02" * 32)
    query = ask(user(), CLOSED, "CreateGrant", grants=(mine, anothers))
    granted = authorize(query)
    assert granted == Allowed(f"grant:{mine.grant_id}", (mine.grant_id,))
    refused = may_delegate(query, granted, grant(ALICE, "Decrypt"))
    assert isinstance(refused, Denied)
    assert refused.message == (
        f"User: {ALICE} is not authorized to perform: kms:CreateGrant on resource: {query.resource} "
        "because no resource-based policy allows the kms:CreateGrant action"
    )


def test_a_chain_only_narrows() -> None:
    """Grandchild of a narrowed child: what the child gave up does not come back."""
    first = grant(ALICE, *PARENT, subset=IT)
    second = grant(ALICE, "Decrypt", "CreateGrant", subset=BOTH)
    assert covers(first, second)
    assert not covers(second, grant(BOB, "Decrypt", subset=IT))
    assert not covers(second, grant(BOB, "GenerateDataKey", subset=BOTH))
    assert covers(second, grant(BOB, "Decrypt", equals=BOTH))
