"""The evaluator against a naive one, and its parts against their definitions."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmsd.authz.evaluate import authorize
from kmsd.authz.explain import explain
from kmsd.authz.policy_document import MAX_MESSAGE, parse
from kmsd.authz.request import Allowed
from kmsd.authz.wildcard import Pattern, fold
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from tests.support.decision_kind import sort_of
from tests.support.naive_evaluator import like, verdict
from tests.support.random_requests import question

TRIPLES = 20_000


@pytest.mark.slow
def test_agrees_with_the_naive_evaluator() -> None:
    """20 000 random policies, grants and requests: the same answer from both, at first and when remembered.

    The generator must earn its keep: a third is allowed, and each reason for a refusal occurs.
    """
    random = Random(20_260_102)  # noqa: S311  # questions, not secrets
    seen: Counter[str] = Counter()
    for number in range(TRIPLES):
        query = question(random)
        expected = verdict(query)
        first = authorize(query)
        assert sort_of(first) == expected, (number, query, first)
        assert authorize(query) == first
        seen[expected] += 1
    assert seen["allow"] >= TRIPLES / 3, seen
    assert min(seen[reason] for reason in ("explicit", "resource", "identity", "session")) >= TRIPLES / 100, seen


def test_explanations_agree_with_decisions() -> None:
    """What an explanation says to have matched includes what decided; a Deny that matched ends everything."""
    random = Random(7)  # noqa: S311  # as above
    for _ in range(1500):
        query = question(random)
        explanation = explain(query)
        assert explanation.decision == authorize(query)
        matched = {one.source for one in explanation.considered if one.matched}
        if isinstance(explanation.decision, Allowed):
            parts = explanation.decision.by.split("+")
            assert {part for part in parts if "#" in part or part.startswith("grant:")} <= matched
        denials = [one for one in explanation.considered if one.matched and one.effect == "Deny"]
        assert bool(denials) == (sort_of(explanation.decision) == "explicit")
        assert all(one.matched or one.misses for one in explanation.considered)


PIECES = st.sampled_from(["*", "?", "a", "b", "ab", "aa", "\n", "é", ":"])


@given(st.lists(PIECES, max_size=9).map("".join), st.text(alphabet="aab:é\n", max_size=12))
@example("*a?*", "aba")
@example("a*a", "a")
def test_wildcards_mean_what_recursion_says(pattern: str, text: str) -> None:
    """The linear matcher and the definition by recursion agree."""
    assert Pattern.of(pattern).matches(text) is like(pattern, text)


@given(st.text(max_size=30))
def test_folding_is_stable(text: str) -> None:
    """Folding twice is folding once."""
    assert fold(fold(text)) == fold(text)


def fails_as_promised(text: str) -> None:
    """A policy, or `MalformedPolicyDocumentException`; nothing else."""
    for kind in PolicyKind:
        message = ""
        try:
            parse(text, kind=kind)
        except MalformedPolicyDocumentException as error:
            message = error.message
        assert message.isascii()
        assert message.isprintable()
        assert len(message) <= MAX_MESSAGE


@given(st.text(max_size=200))
@example('{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:\\u0000"}]}')
@example('"' + "\\" * 7)
@example('{"a":1e999999999}')
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception leaves the parser, whatever the text."""
    fails_as_promised(text)


WORDS = st.sampled_from(
    [
        *("Version", "Id", "Statement", "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction"),
        *("Resource", "NotResource", "Condition", "AWS", "Service", "2012-10-17", "Allow", "Deny", "*", "kms:*"),
        *("arn:aws:kms:us-east-1:111122223333:key/${aws:username}", "111122223333", "aws:x", "${aws:x, 'y'}", "${"),
        *("StringEquals", "ForAnyValue:ArnLikeIfExists", "NumericLessThan", "DateEquals", "IpAddress", "Bool", "Null"),
        *("10.0.0.0/8", "2026-01-01", "1e5", "true", "", "\ud800", "\x00", "2026-13-01T99:99:99Z", "::/129"),
    ]
)
SCALARS = WORDS | st.text(max_size=5) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)


@given(TREES)
def test_any_json_is_read_or_refused(tree: Any) -> None:
    """JSON in the shape of a policy, with everything in the wrong place."""
    fails_as_promised(json.dumps(tree))
    fails_as_promised(json.dumps({"Version": "2012-10-17", "Statement": tree}))


STATEMENTS = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Deny"]), "Principal": TREES, "Action": TREES, "Resource": TREES},
    optional={"Condition": st.dictionaries(WORDS, st.dictionaries(WORDS, TREES, max_size=2), max_size=2)},
)


@given(STATEMENTS)
def test_any_statement_is_read_or_refused(statement: Any) -> None:
    """Statements that are almost right."""
    fails_as_promised(json.dumps({"Statement": statement}))
    del statement["Principal"]
    fails_as_promised(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
