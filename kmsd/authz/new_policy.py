"""What a policy must satisfy to be stored, beyond being readable: no Deny in it may fail to apply in silence.

Stored policies are evaluated as they are, also those that an earlier release accepted; `kmsd check` reports them.
"""

from __future__ import annotations

from collections.abc import Iterator

from kmsd.authz import condition_keys, policy_variables
from kmsd.authz.policy_document import parse, refuse
from kmsd.authz.wildcard import fold
from kmsd.domain.policy import Effect, Policy, PolicyKind, Statement


def parse_new(text: str, *, kind: PolicyKind) -> Policy:
    """Return the policy that `text` is. Raises `MalformedPolicyDocumentException` if it must not be stored."""
    policy = parse(text, kind=kind)
    for sentence, place, problem in objections(policy):
        refuse(sentence, place, problem)
    return policy


def objections(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Yield what a readable policy must not have: AWS's sentence, the place, and what is wrong there."""
    for statement in policy.statements:
        place = f"Statement[{statement.number}]"
        denies = statement.effect is Effect.DENY
        if statement.actions is None:
            yield "Policy statement must contain actions.", place, "without Action or NotAction it has no effect"
        if denies and statement.resources is None and policy.kind is PolicyKind.KEY:
            yield "Policy statement must contain resources.", place, "a Deny without Resource denies nothing"
        if denies:
            yield from _absent_keys(statement, place, variables=policy.has_variables)


def _absent_keys(statement: Statement, place: str, *, variables: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the condition keys and policy variables of a Deny that no request ever brings."""
    for condition in statement.conditions:
        at = f"{place}.Condition.{condition.operator[:64]}.{condition.key[:64]}"
        yield from _absent(condition.key, at)
        for value in condition.values:
            yield from _absent_variables(value, at, variables=variables)
    for text in statement.resources or ():
        yield from _absent_variables(text, f"{place}.Resource", variables=variables)


def _absent_variables(text: str, place: str, *, variables: bool) -> Iterator[tuple[str, str, str]]:
    for part in policy_variables.parse(text, variables=variables):
        if isinstance(part, policy_variables.Variable) and part.default is None:
            yield from _absent(part.key, place)


def _absent(key: str, place: str) -> Iterator[tuple[str, str, str]]:
    folded = fold(key)
    if condition_keys.find(folded) is None:
        reason = condition_keys.why_absent(folded)
        yield (
            "Syntax errors in policy.",
            place,
            f"a Deny must not depend on {key[:64]}, which is never provided here: {reason}",
        )
