"""Explanation of a decision: every statement and grant with the elements that do not match the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kmsd.authz import grants
from kmsd.authz.compiled_policy import CompiledPolicy, PrincipalMatch, PrincipalView
from kmsd.authz.evaluate import authorize
from kmsd.authz.policy_document import parse
from kmsd.authz.request_context import RequestContext
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.authz.compiled_policy import CompiledStatement
    from kmsd.authz.request import AuthorizationRequest, Decision
    from kmsd.domain.grant import Grant
    from kmsd.domain.policy import Principals


class Mismatch(msgspec.Struct, frozen=True):
    """One element that does not match the request."""

    element: str
    """`Principal`, `Action`, `Resource`, `Condition.StringEquals.kms:ViaService`, `Operations`, `Constraints`, …"""
    expected: str
    actual: str


class StatementTrace(msgspec.Struct, frozen=True):
    """One statement or grant, compared with the request."""

    source: str
    """`key-policy:Sid`, `identity-policy:Sid`, `session-policy:#2`, `grant:<id>`, …"""
    effect: str
    """`Allow` or `Deny`."""
    matched: bool
    """True if it applies. An Allow that applies may still not suffice: see `note`."""
    misses: tuple[Mismatch, ...] = ()
    """Every element that does not match. A single one is a near miss."""
    note: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """The decision of `authorize`, and all statements and grants that were considered."""

    decision: Decision
    considered: tuple[StatementTrace, ...]


def explain(request: AuthorizationRequest) -> Explanation:
    """Return the decision, and for each statement and grant the elements that do not match. Never raises."""
    return Explanation(authorize(request), (*_policies(request), *(_grant(request, grant) for grant in request.grants)))


def _policies(request: AuthorizationRequest) -> Iterator[StatementTrace]:
    caller = request.caller
    principal_view, request_context = PrincipalView(caller), RequestContext(request)
    documents: list[tuple[PolicyKind, str]] = []
    if request.resource_policy is not None:
        kind = PolicyKind.TRUST if request.action.startswith("sts:") else PolicyKind.KEY
        documents.append((kind, request.resource_policy))
    if not principal_view.is_service:
        documents += [(PolicyKind.IDENTITY, text) for text in caller.identity_policies]
    documents += [(PolicyKind.SESSION, text) for text in caller.session_policies or ()]
    for kind, text in documents:
        try:
            policy = CompiledPolicy(text, parse(text, kind=kind))
        except MalformedPolicyDocumentException as error:
            yield StatementTrace(kind.value, "Deny", matched=True, note=f"it cannot be read: {error.message}")
            continue
        for statement in policy.statements:
            yield _statement(request, statement, principal_view, request_context, kind)


def _statement(
    request: AuthorizationRequest,
    statement: CompiledStatement,
    principal_view: PrincipalView,
    request_context: RequestContext,
    kind: PolicyKind,
) -> StatementTrace:
    label = f"{kind.value}:{statement.source.label}"
    effect = statement.source.effect.value
    misses = tuple(_misses(request, statement, principal_view, request_context))
    if misses:
        return StatementTrace(label, effect, matched=False, misses=misses)
    note = ""
    if statement.allows and statement.who is not None and statement.reaches(principal_view) is PrincipalMatch.ACCOUNT:
        note = "it names the account: an identity policy must allow it too"
    return StatementTrace(label, effect, matched=True, note=note)


def _misses(
    request: AuthorizationRequest,
    statement: CompiledStatement,
    principal_view: PrincipalView,
    request_context: RequestContext,
) -> Iterator[Mismatch]:
    source = statement.source
    if not statement.effective:
        yield Mismatch("Resource" if source.resources is None else "Action", "to be present", "missing: no effect")
        return
    if source.principals is not None and not statement.reaches(principal_view):
        element = _name("Principal", excluded=source.excludes_principals)
        yield Mismatch(element, _who(source.principals), " ".join(principal_view.names))
    if not statement.covers_action(request.action.lower()):
        element = _name("Action", excluded=source.excludes_actions)
        yield Mismatch(element, ", ".join(source.actions or ()), request.action)
    if not statement.covers(request.resource, request_context):
        element = _name("Resource", excluded=source.excludes_resources)
        yield Mismatch(element, ", ".join(source.resources or ()), request.resource)
    for condition in statement.conditions:
        if not condition.holds(request_context, allows=statement.allows):
            element = f"Condition.{condition.source.operator}.{condition.source.key}"
            actual = condition.actual(request_context)
            given = "not in the request" if actual is None else ", ".join(actual)
            yield Mismatch(element, ", ".join(condition.source.values), given)


def _name(element: str, *, excluded: bool) -> str:
    return f"Not{element}" if excluded else element


def _who(principals: Principals) -> str:
    everyone = ("*",) if principals.everyone else ()
    return ", ".join((*everyone, *principals.accounts, *principals.entities, *principals.services))


def _grant(request: AuthorizationRequest, grant: Grant) -> StatementTrace:
    operation = grants.operation_of(request.action)
    caller = request.caller
    grantees = caller.grantee_names
    misses = []
    if not grants.is_on(grant, request.resource):
        misses.append(Mismatch("KeyId", grant.key_id, request.resource))
    if operation is None or operation not in grant.operations:
        misses.append(Mismatch("Operations", ", ".join(grant.operations), request.action))
    if grant.grantee_principal not in grantees:
        misses.append(Mismatch("GranteePrincipal", grant.grantee_principal, ", ".join(grantees)))
    if operation is not None and not grants.admits(grant, operation, request.encryption_context):
        equals = grant.encryption_context_equals
        element = "EncryptionContextSubset" if equals is None else "EncryptionContextEquals"
        expected = grant.encryption_context_subset if equals is None else equals
        misses.append(
            Mismatch(f"Constraints.{element}", str(dict(expected or {})), str(dict(request.encryption_context)))
        )
    return StatementTrace(f"grant:{grant.grant_id}", "Allow", matched=not misses, misses=tuple(misses))
