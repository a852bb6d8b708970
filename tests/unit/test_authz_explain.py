"""Explanations name what matched, and the elements on which the others failed."""

from __future__ import annotations

from kmsd.authz.explain import Mismatch, StatementTrace, explain
from kmsd.authz.request import Allowed, Denied
from tests.authz_cases.support import (
    ALICE,
    APP,
    CLOSED,
    DELEGATING,
    KEY,
    LOGS,
    ROOT,
    allow,
    ask,
    deny,
    grant,
    policy,
    service,
    session,
    user,
)


def test_each_element_that_fails_is_named() -> None:
    """Principal, action, resource and each condition, with what was expected and what was there."""
    statement = allow(
        APP,
        "kms:Decrypt",
        KEY[:-1] + "c",
        Sid="Use",
        Condition={"StringEquals": {"kms:ViaService": ["a", "b"]}, "Bool": {"aws:SecureTransport": "true"}},
    )
    explanation = explain(ask(user(), policy(statement), given={"aws:SecureTransport": "false"}))
    assert isinstance(explanation.decision, Denied)
    (considered,) = explanation.considered
    assert (considered.source, considered.effect, considered.matched) == ("key-policy:Use", "Allow", False)
    assert considered.misses == (
        Mismatch("Principal", APP, f"{ALICE} 111122223333 {ROOT}"),
        Mismatch("Action", "kms:Decrypt", "kms:Encrypt"),
        Mismatch("Resource", KEY[:-1] + "c", KEY),
        Mismatch("Condition.StringEquals.kms:ViaService", "a, b", "not in the request"),
        Mismatch("Condition.Bool.aws:SecureTransport", "true", "false"),
    )


def test_negative_elements_are_named_as_written() -> None:
    """NotPrincipal, NotAction and NotResource."""
    statement = allow(
        None, None, None, NotPrincipal={"AWS": [ALICE, "*"], "Service": LOGS}, NotAction="kms:E*", NotResource="*"
    )
    (considered,) = explain(ask(user(), policy(statement))).considered
    assert [miss.element for miss in considered.misses] == ["NotPrincipal", "NotAction", "NotResource"]
    assert considered.misses[0].expected == f"*, {ALICE}, {LOGS}"


def test_the_sources_are_told_apart() -> None:
    """Every layer is looked at, also after the decision is clear."""
    caller = session("app", "s1", policy(allow()), bound=(policy(allow(None, "kms:Decrypt")),))
    explanation = explain(ask(caller, DELEGATING, grants=(grant(APP, "Decrypt"), grant(ALICE))))
    assert [(one.source, one.matched) for one in explanation.considered] == [
        ("key-policy:#0", True),
        ("identity-policy:#0", True),
        ("session-policy:#0", False),
        (f"grant:{'ab' * 32}", False),
        (f"grant:{'ab' * 32}", False),
    ]
    assert explanation.considered[0].note == "it names the account: an identity policy must allow it too"
    assert explanation.considered[3].misses == (Mismatch("Operations", "Decrypt", "kms:Encrypt"),)
    assert [miss.element for miss in explanation.considered[4].misses] == ["GranteePrincipal"]


def test_constraints_and_keys_of_grants() -> None:
    """A grant that almost fits names its constraint; one on another key names the key."""
    held = (
        grant(ALICE, subset={"a": "b"}),
        grant(ALICE, equals={"a": "b"}),
        grant(ALICE, key_id="another"),
        grant(ALICE),
    )
    explanation = explain(ask(user(), CLOSED, grants=held, context={"a": "c"}))
    assert explanation.decision == Allowed(f"grant:{'ab' * 32}", ("ab" * 32,))
    assert [[miss.element for miss in one.misses] for one in explanation.considered[1:]] == [
        ["Constraints.EncryptionContextSubset"],
        ["Constraints.EncryptionContextEquals"],
        ["KeyId"],
        [],
    ]
    assert explanation.considered[1].misses[0] == Mismatch(
        "Constraints.EncryptionContextSubset", "{'a': 'b'}", "{'a': 'c'}"
    )


def test_statements_without_effect() -> None:
    """A key policy's statement without Resource or Action says so."""
    explanation = explain(ask(user(), policy(allow(ALICE, resource=None), allow(ALICE, None))))
    assert [one.misses for one in explanation.considered] == [
        (Mismatch("Resource", "to be present", "missing: no effect"),),
        (Mismatch("Action", "to be present", "missing: no effect"),),
    ]


def test_what_cannot_be_read_is_said() -> None:
    """A document that is no policy denies everything, with its reason."""
    explanation = explain(ask(user("alice", "{"), policy(deny(ALICE))))
    assert isinstance(explanation.decision, Denied)
    assert explanation.considered[1] == StatementTrace(
        "identity-policy",
        "Deny",
        matched=True,
        note="it cannot be read: This policy contains invalid Json",
    )


def test_services_have_no_identity_policies() -> None:
    """Whatever hangs on a service's caller is not looked at."""
    assert [one.source for one in explain(ask(service(), policy(allow({"Service": LOGS})))).considered] == [
        "key-policy:#0"
    ]
    assert explain(ask(service(), None)).considered == ()


def test_trust_policies_are_called_so() -> None:
    """A role's trust policy is named as one."""
    query = ask(user(), policy(allow(ALICE, "sts:AssumeRole", None)), "sts:AssumeRole", resource=APP)
    assert explain(query).considered == (StatementTrace("trust-policy:#0", "Allow", matched=True),)
