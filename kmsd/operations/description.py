"""What follows from a declaration, for documentation and tests: members, errors, states."""

from __future__ import annotations

from typing import Any

from kmsd import errors
from kmsd.domain.key_state import KeyState, Refusal
from kmsd.errors import ServiceError
from kmsd.operations.declaration import (
    Access,
    OnAlias,
    OnAliasKey,
    OnCiphertext,
    OnKey,
    OnLogGroup,
    OnLogGroups,
    OnLogsKey,
    OnNewKey,
    Operation,
    Service,
)

AnyOperation = Operation[Any, Any]

EVERYWHERE = (errors.DependencyTimeoutException, errors.KMSInternalException)
"""What every operation may answer."""

LOGS_EVERYWHERE = (errors.InvalidParameterException, errors.ServiceUnavailableException)
"""What every operation of Logs may answer."""


def members(struct: Any) -> tuple[str, ...]:
    """Wire names of a request's or response's members."""
    return () if struct is None else tuple(struct.__struct_encode_fields__)


def errors_of(operation: AnyOperation) -> tuple[str, ...]:
    """The names of all errors of its own that an operation may answer, sorted."""
    everywhere = LOGS_EVERYWHERE if operation.service is Service.LOGS else EVERYWHERE
    found: set[type[ServiceError]] = {*operation.raises, *everywhere}
    if "dry_run" in operation.request.__struct_fields__:
        found.add(errors.DryRunOperationException)
    if "grant_tokens" in operation.request.__struct_fields__:
        found.add(errors.InvalidGrantTokenException)
    for access in operation.access:
        found |= _errors_of_access(access)
    return tuple(sorted(error.__name__ for error in found))


def _errors_of_access(access: Access) -> set[type[ServiceError]]:
    found: set[type[ServiceError]] = set()
    if isinstance(access, OnKey | OnCiphertext):
        found |= {errors.NotFoundException, errors.InvalidArnException}
    if isinstance(access, OnCiphertext):
        found.add(errors.InvalidCiphertextException)
    if isinstance(access, OnAliasKey):
        found.add(errors.NotFoundException)
    if isinstance(access, OnLogGroup | OnLogGroups | OnLogsKey) and getattr(access, "must_exist", True):
        found.add(errors.ResourceNotFoundException)
    if not isinstance(access, OnKey | OnCiphertext | OnAliasKey):
        return found
    if access.usable.origin:
        found.add(errors.UnsupportedOperationException)
    found |= {type(refusal.error("")) for state, refusal in access.usable.row.items() if refusal is not Refusal.YES}
    return found


def state_row(operation: AnyOperation) -> str:
    """A letter for each state of `KeyState`; for several keys, the strictest."""
    rows = [access.usable.row for access in operation.access if isinstance(access, OnKey | OnCiphertext | OnAliasKey)]
    if not rows:
        return ""
    letters = []
    for state in KeyState:
        refusals = [row[state] for row in rows if row[state] is not Refusal.YES]
        letters.append(refusals[0].value if refusals else "Y")
    return "".join(letters)


def reaches(operation: AnyOperation) -> str:
    """What it reaches, in words, for the page."""
    return ", ".join(_words(access) for access in operation.access)


def _words(access: Access) -> str:
    match access:
        case OnKey():
            return f"key `{access.member}`" + (" or its alias" if access.aliases else "")
        case OnCiphertext():
            return f"key of `{access.member}`"
        case OnAlias():
            return f"alias `{access.member}`"
        case OnAliasKey():
            return "the alias's key"
        case OnLogGroup(member=None):
            return "all log groups"
        case OnLogGroup():
            again = f"the same for logs:{access.action}, if asked"
            return f"log group `{access.member}`" if access.action is None else again
        case OnLogGroups():
            return "log groups by name or identifier"
        case OnLogsKey():
            return "log group `log_group_name` or what `resource_identifier` names"
        case OnNewKey():
            return f"the new key for kms:{access.action}, if the request has `{access.when}`"
        case _:
            return "no resource"
