"""Members, errors and states of an operation, derived from its declaration for documentation and tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kmsd import errors
from kmsd.authz.condition_keys import ConditionKey
from kmsd.domain.key_state import KeyState, StateRule
from kmsd.errors import ServiceError
from kmsd.operations.declaration import Operation

AnyOperation = Operation[Any, Any]


def members(struct: Any) -> tuple[str, ...]:
    """Return the wire names of the members of a request or response."""
    return () if struct is None else tuple(struct.__struct_encode_fields__)


def errors_of(operation: AnyOperation) -> tuple[str, ...]:
    """Return the sorted names of all errors that an operation declares or that follow from its declaration."""
    found: set[type[ServiceError]] = {*operation.raises, *operation.service.common_errors}
    if "dry_run" in operation.request.__struct_fields__:
        found.add(errors.DryRunOperationException)
    if "grant_tokens" in operation.request.__struct_fields__:
        found.add(errors.InvalidGrantTokenException)
    for access in operation.access:
        found.update(access.errors)
    return tuple(sorted(error.__name__ for error in found))


def actions_with(key: ConditionKey, operations: Iterable[AnyOperation]) -> frozenset[str]:
    """Return the actions that have a condition key; empty if it is not bound to actions."""
    found = {
        action
        for operation in operations
        if not set(key.members).isdisjoint(operation.request.__struct_fields__)
        for _, action in operation.actions
    }
    return key.actions | found


def state_row(operation: AnyOperation) -> str:
    """Return a letter for each `KeyState`; with several keys, the first refusal."""
    rows = [access.states.row for access in operation.access if access.states is not None]
    if not rows:
        return ""
    letters = []
    for state in KeyState:
        refusals = [row[state] for row in rows if row[state] is not StateRule.YES]
        letters.append(refusals[0].value if refusals else "Y")
    return "".join(letters)


def reaches(operation: AnyOperation) -> str:
    """Describe the resources that an operation accesses, for docs/operations.md."""
    return ", ".join(access.words() for access in operation.access)
