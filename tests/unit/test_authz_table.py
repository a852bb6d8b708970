"""The table of authorisation cases."""

from __future__ import annotations

import pytest

from kmsd.authz.evaluate import authorize
from kmsd.authz.explain import explain
from kmsd.authz.request import Allowed
from tests.authz_cases import attacks, attacks_by_name, conditions, elements, grants, layers, principals, sets
from tests.authz_cases.support import Case
from tests.support.decision_kind import sort_of
from tests.support.naive_evaluator import verdict

THEMES = {
    "principals": principals.CASES,
    "elements": elements.CASES,
    "conditions": conditions.CASES,
    "layers": layers.CASES,
    "grants": grants.CASES,
    "sets": sets.CASES,
    "attacks by name": attacks_by_name.CASES,
    "attacks": attacks.CASES,
}
TABLE = [pytest.param(case, id=f"{theme}: {case.name}") for theme, cases in THEMES.items() for case in cases]


@pytest.mark.parametrize("case", TABLE)
def test_case(case: Case) -> None:
    """The decision is the expected one, on the first and on the remembered evaluation, and in the explanation."""
    decision = authorize(case.query)
    if case.expect.startswith("by:"):
        assert isinstance(decision, Allowed)
        assert decision.by == case.expect.removeprefix("by:")
    else:
        assert sort_of(decision) == case.expect, decision
    assert authorize(case.query) == decision
    assert explain(case.query).decision == decision
    assert case.rule
    assert case.page


@pytest.mark.parametrize("case", [case for case in TABLE if "cannot be read" not in str(case.id)])
def test_case_by_the_naive_evaluator(case: Case) -> None:
    """The evaluator of the tests comes to the same; it knows only documents that are policies."""
    assert verdict(case.query) == ("allow" if case.expect.startswith("by:") else case.expect)


def test_extent() -> None:
    """At least 200 cases, 40 of them attempts to get more than is due; no case stands there twice."""
    cases = [case for theme in THEMES.values() for case in theme]
    assert len(cases) >= 200
    assert sum(case.attack for case in cases) >= 40
    assert len({(case.name, case.rule) for case in cases}) == len(cases)
    assert {case.expect.split(":")[0] for case in cases} == {
        "allow",
        "by",
        "explicit",
        "resource",
        "identity",
        "session",
    }
