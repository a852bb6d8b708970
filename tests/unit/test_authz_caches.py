"""What is remembered between calls never changes an answer, and ends."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kmsd.authz import compiled_policy, evaluate, grants
from kmsd.authz.compiled_policy import PolicyCache
from kmsd.authz.evaluate import authorize
from kmsd.authz.request import Allowed, Denied
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from tests.authz_cases.support import ALICE, CLOSED, DELEGATING, KEY, MAY_ALL, A, allow, ask, deny, grant, policy, user


def test_conditions_are_looked_at_on_every_call() -> None:
    """A decision that depends on the request is not remembered."""
    query = ask(user(), policy(allow(ALICE, Condition={"Bool": {"aws:SecureTransport": "true"}})))
    secure = replace(query, conditions={"aws:SecureTransport": "true"})
    for _ in range(3):
        assert isinstance(authorize(query), Denied)
        assert isinstance(authorize(secure), Allowed)


def test_tags_of_the_caller_are_looked_at_on_every_call() -> None:
    """The same user with other tags, for a variable in Resource."""
    allowed = policy(allow(None, "kms:*", f"arn:aws:kms:us-east-1:{A}:key/${{aws:PrincipalTag/key}}"))
    for _ in range(2):
        assert isinstance(authorize(ask(user("alice", allowed, key=KEY.rpartition("/")[2]))), Allowed)
        assert isinstance(authorize(ask(user("alice", allowed, key="another"))), Denied)


def test_policies_are_part_of_what_is_remembered() -> None:
    """A changed policy of any kind counts at once; so does the old one, put back."""
    for _ in range(2):
        assert isinstance(authorize(ask(user("alice", MAY_ALL))), Allowed)
        assert isinstance(authorize(ask(user("alice"))), Denied)
        assert isinstance(authorize(ask(user("alice", MAY_ALL, policy(deny())))), Denied)
        assert isinstance(authorize(ask(user("alice", MAY_ALL), CLOSED)), Denied)
        assert isinstance(authorize(ask(user("alice", MAY_ALL), None)), Allowed)


def test_an_account_is_part_of_what_is_remembered() -> None:
    """The same texts for a key of another account."""
    query = ask(user("alice", MAY_ALL), DELEGATING)
    assert isinstance(authorize(query), Allowed)
    assert isinstance(authorize(replace(query, resource_policy=None)), Allowed)
    assert isinstance(authorize(replace(query, resource_policy=None, resource_account="444455556666")), Denied)


def test_remembered_refusals_leave_room_for_grants() -> None:
    """Policies that allow nothing are remembered; a grant counts from the call that brings it, until it is gone."""
    query = ask(user(), CLOSED)
    for _ in range(2):
        assert isinstance(authorize(query), Denied)
        assert isinstance(authorize(replace(query, grants=(grant(ALICE),))), Allowed)


def test_index_of_grants_answers_as_the_plain_search() -> None:
    """A large tuple of grants, by its index and without: the same grant, for every context."""
    made = [grant("arn:aws:iam::111122223333:user/bob", grant_id=f"{number:064x}") for number in range(20)]
    pairs = [{"Department": "IT"}, {"Department": "HR"}, {"Department": "IT", "Purpose": "Test"}, {}]
    for number, pair in enumerate([*pairs, *pairs, *pairs]):
        made.append(grant(ALICE, "Decrypt", subset=pair or None, grant_id=f"{100 + number:064x}"))
        made.append(grant(ALICE, "Encrypt", "DescribeKey", equals=pair, grant_id=f"{200 + number:064x}"))
    held = tuple(made)
    for context in pairs:
        for operation in ("Encrypt", "Decrypt", "DescribeKey", "CreateGrant"):
            plain = authorize(ask(user(), CLOSED, operation, grants=made, context=context))  # type: ignore[arg-type]  # a list is searched
            query = ask(user(), CLOSED, operation, grants=held, context=context)
            assert [authorize(query) for _ in range(3)] == [plain] * 3


def test_indexes_of_grants_end() -> None:
    """Only so many are kept."""
    for number in range(2 * grants.INDEXES):
        held = tuple(grant(ALICE, grant_id=f"{number:032x}{one:032x}") for one in range(grants.INDEXED_FROM))
        for _ in range(2):
            assert authorize(ask(user(), CLOSED, grants=held)) == Allowed(
                f"grant:{held[0].grant_id}", (held[0].grant_id,)
            )
    assert len(grants._indexes) <= grants.INDEXES


def test_compiled_policies_end() -> None:
    """The texts held never exceed the limit by more than one document; a single one larger than it is kept."""
    cache = PolicyCache(limit=3 * len(DELEGATING))
    for number in range(20):
        cache.get(policy(allow(f"arn:aws:iam::{number:012}:root")), PolicyKind.KEY)
        assert sum(len(text) for _, text in cache._policies) <= 4 * len(DELEGATING)
    assert cache.generation > 3
    first = cache.get(DELEGATING, PolicyKind.KEY)
    assert cache.get(DELEGATING, PolicyKind.KEY) is first
    small = PolicyCache(limit=1)
    assert small.get(DELEGATING, PolicyKind.KEY) is small.get(DELEGATING, PolicyKind.KEY)


def test_kinds_are_not_confused() -> None:
    """A text that is an identity policy is no key policy, also when it was read as the former before."""
    cache = PolicyCache()
    cache.get(MAY_ALL, PolicyKind.IDENTITY)
    with pytest.raises(MalformedPolicyDocumentException):
        cache.get(MAY_ALL, PolicyKind.KEY)


def test_cases_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are kept, and none that was made from compiled policies that are gone."""
    monkeypatch.setattr(evaluate, "MAX_PARTIAL_DECISIONS", 10)
    for number in range(50):
        authorize(ask(user(f"u{number}", MAY_ALL)))
        assert len(evaluate._partial_decisions.known) <= 10
    evaluate._policies.generation += 1
    authorize(ask(user("last", MAY_ALL)))
    assert len(evaluate._partial_decisions.known) == 1


def test_actions_of_a_policy_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy remembers only so many actions."""
    monkeypatch.setattr(compiled_policy, "CACHED_ACTIONS", 4)
    for number in range(20):
        assert isinstance(authorize(ask(user("alice", MAY_ALL), operation=f"X{number}")), Allowed)
    held = evaluate._policies.get(MAY_ALL, PolicyKind.IDENTITY)
    assert len(held._by_action) <= 4


def test_texts_are_kept_once() -> None:
    """An equal text that arrives as another object is not kept a second time."""
    one, other = policy(allow(ALICE, Sid="once")), policy(allow(ALICE, Sid="once"))
    assert one is not other
    authorize(ask(user(), one))
    authorize(ask(user(), other, "Decrypt"))
    held = [key[3] for key in evaluate._partial_decisions.known if isinstance(key, tuple) and key[3] == one]
    assert len(held) == 2
    assert held[0] is held[1]


def test_unreadable_policies_are_not_remembered() -> None:
    """They are refused anew each time, for a service without regard to identity policies."""
    query = ask(user("alice", MAY_ALL, "{"), policy(allow(ALICE)))
    before = len(evaluate._partial_decisions.known)
    assert isinstance(authorize(query), Denied)
    assert isinstance(authorize(query), Denied)
    assert len(evaluate._partial_decisions.known) == before
