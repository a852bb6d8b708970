"""A compiled condition: one operator, one key, the listed values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.authz.circumstances import AmbiguousValues
from kmsd.authz.condition_operators import Operator, Quantifier
from kmsd.authz.wildcard import fold

if TYPE_CHECKING:
    from kmsd.authz.request_context import RequestContext
    from kmsd.domain.policy import Condition


class CompiledCondition:
    """A condition of a statement, ready to be compared with requests.

    AWS leaves some comparisons undefined: a policy variable without value, a request's value that is not of the
    operator's type. An Allow then does not apply. A Deny with a negated operator applies.
    """

    __slots__ = ("_if_exists", "_key", "_negated", "_null", "_quantifier", "_test", "source")

    def __init__(self, condition: Condition, *, variables: bool) -> None:
        """Compile `condition`. Raises `ValueError` if the operator is unknown or a value is not of its type."""
        self.source = condition
        operator = Operator.named(condition.operator)
        self._key = fold(condition.key)
        self._quantifier = operator.quantifier
        self._negated = operator.negated
        self._if_exists = operator.if_exists
        self._null = operator.base == "Null"
        self._test = operator.test(condition.values, variables=variables)

    def holds(self, request_context: RequestContext, *, allows: bool) -> bool:
        """True if the condition is met. `allows`: the statement's effect is Allow."""
        values = request_context.values(self._key)
        if self._null:
            return self._is_null(values, request_context)
        if values is None:
            return self._without_key()
        if allows and self._negated and self._test.unresolved(request_context):
            return False
        if isinstance(values, AmbiguousValues):
            outcomes = (self._compare((value,), request_context, allows=allows) for value in values)
            return all(outcomes) if allows else any(outcomes)
        return self._compare(values, request_context, allows=allows)

    def actual(self, request_context: RequestContext) -> tuple[str, ...] | None:
        """Return the request's values for the key; None if it has none."""
        return request_context.values(self._key)

    def _is_null(self, values: tuple[str, ...] | None, request_context: RequestContext) -> bool:
        # "true (the key doesn't exist, it is null) or false (the key exists and its value is not null)"; with
        # `false` one prevents "context keys with empty values" from matching: an empty string is null too.
        null = values is None or not any(values)
        return bool(self._test.matches("true" if null else "false", request_context))

    def _without_key(self) -> bool:
        # With IfExists, "if the key is not present, evaluate the condition element as true"; and a set operator for
        # all values "also returns true if there are no context keys in the request".
        if self._if_exists or self._quantifier is Quantifier.FOR_ALL:
            return True
        # "If the key that you specify in a policy condition is not present in the request context, the values do
        # not match and the condition is false. If the policy condition requires that the key is not matched …
        # the condition is true." ForAnyValue finds no value at all.
        return self._negated and self._quantifier is Quantifier.NONE

    def _compare(self, values: tuple[str, ...], request_context: RequestContext, *, allows: bool) -> bool:
        if self._quantifier is Quantifier.NONE:
            if len(values) == 1:
                return self._meets(values[0], request_context, allows=allows)
            outcomes = (self._meets(value, request_context, allows=allows) for value in values)
            return all(outcomes) if self._negated else any(outcomes)
        if not any(values):
            # "If the key values in the request resolve to an empty data set (for example, an empty string), a
            # condition operator modified by ForAllValues returns true, and … by ForAnyValue returns false."
            return self._quantifier is Quantifier.FOR_ALL
        outcomes = (self._meets(value, request_context, allows=allows) for value in values)
        return all(outcomes) if self._quantifier is Quantifier.FOR_ALL else any(outcomes)

    def _meets(self, value: str, request_context: RequestContext, *, allows: bool) -> bool:
        matched = self._test.matches(value, request_context)
        if not self._negated:
            return matched is True
        return matched is False or (matched is None and not allows)
