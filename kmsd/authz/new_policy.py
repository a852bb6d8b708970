"""Additional checks before a policy is stored: no Deny in it may silently fail to apply.

Stored policies are evaluated without these checks, including those that an earlier release accepted. `kmsd check`
reports them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kmsd.authz import condition_keys, policy_variables
from kmsd.authz.policy_document import parse, refuse
from kmsd.authz.wildcard import fold
from kmsd.domain.policy import Effect, Policy, PolicyKind, Statement


def parse_new(text: str, *, kind: PolicyKind, claims: Collection[str] = ()) -> Policy:
    """Parse a policy that is to be stored. Raises `MalformedPolicyDocumentException` if it must not be.

    `claims`: folded condition keys of the claims of configured issuers, which a trust policy may use.
    """
    policy = parse(text, kind=kind)
    for sentence, place, problem in objections(policy, claims):
        refuse(sentence, place, problem)
    return policy


def objections(policy: Policy, claims: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Yield the objections to storing a readable policy: AWS's message, the place, and the problem there."""
    provided = frozenset(claims) if policy.kind is PolicyKind.TRUST else frozenset[str]()
    for statement in policy.statements:
        place = f"Statement[{statement.number}]"
        denies = statement.effect is Effect.DENY
        if statement.actions is None:
            yield "Policy statement must contain actions.", place, "without Action or NotAction it has no effect"
        if denies and statement.resources is None and policy.kind is PolicyKind.KEY:
            yield "Policy statement must contain resources.", place, "a Deny without Resource denies nothing"
        if denies:
            yield from _absent_keys(statement, place, provided, variables=policy.has_variables)


def _absent_keys(
    statement: Statement, place: str, provided: frozenset[str], *, variables: bool
) -> Iterator[tuple[str, str, str]]:
    """Yield an objection for each condition key and policy variable of a Deny that no request ever has."""
    for condition in statement.conditions:
        at = f"{place}.Condition.{condition.operator[:64]}.{condition.key[:64]}"
        yield from _absent(condition.key, at, provided)
        for value in condition.values:
            yield from _absent_variables(value, at, provided, variables=variables)
    for text in statement.resources or ():
        yield from _absent_variables(text, f"{place}.Resource", provided, variables=variables)


def _absent_variables(
    text: str, place: str, provided: frozenset[str], *, variables: bool
) -> Iterator[tuple[str, str, str]]:
    for part in policy_variables.parse(text, variables=variables):
        if isinstance(part, policy_variables.Variable) and part.default is None:
            yield from _absent(part.key, place, provided)


def _absent(key: str, place: str, provided: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    folded = fold(key)
    if condition_keys.find(folded) is None and folded not in provided:
        reason = condition_keys.why_absent(folded)
        yield (
            "Syntax errors in policy.",
            place,
            f"a Deny must not depend on {key[:64]}, which is never provided here: {reason}",
        )
