"""Key states: transitions between them, and the operations that work in each.

The states in which an operation works are decided here alone. The log service itself requires an enabled key
(`cloudwatch_logs.data_keys`, `cloudwatch_logs.key_association`). Source: table "Key states of AWS KMS keys" (Developer
Guide). The matrix of all operations is in tests/golden/key_state_matrix.txt.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

from kmsd.errors import (
    DisabledException,
    KeyUnavailableException,
    KMSInvalidStateException,
    ServiceError,
    UnsupportedOperationException,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class KeyState(StrEnum):
    """`KeyMetadata.KeyState`."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_IMPORT = "PendingImport"
    UNAVAILABLE = "Unavailable"
    """The key has material according to the store, but the token does not hold it."""


class Transition(Enum):
    """An event that changes a key's state."""

    ENABLE = auto()
    DISABLE = auto()
    SCHEDULE_DELETION = auto()
    CANCEL_DELETION = auto()
    CANCEL_DELETION_WITHOUT_MATERIAL = auto()
    IMPORT_MATERIAL = auto()
    LOSE_MATERIAL = auto()
    """Imported material was deleted or has expired."""


_S, _E = KeyState, Transition

TRANSITIONS: Mapping[KeyState, Mapping[Transition, KeyState]] = {
    _S.ENABLED: {
        _E.ENABLE: _S.ENABLED,
        _E.DISABLE: _S.DISABLED,
        _E.SCHEDULE_DELETION: _S.PENDING_DELETION,
        _E.IMPORT_MATERIAL: _S.ENABLED,
        _E.LOSE_MATERIAL: _S.PENDING_IMPORT,
    },
    _S.DISABLED: {
        _E.ENABLE: _S.ENABLED,
        _E.DISABLE: _S.DISABLED,
        _E.SCHEDULE_DELETION: _S.PENDING_DELETION,
        _E.IMPORT_MATERIAL: _S.DISABLED,
        _E.LOSE_MATERIAL: _S.PENDING_IMPORT,
    },
    _S.PENDING_IMPORT: {
        _E.SCHEDULE_DELETION: _S.PENDING_DELETION,
        _E.IMPORT_MATERIAL: _S.ENABLED,
        _E.LOSE_MATERIAL: _S.PENDING_IMPORT,
    },
    _S.PENDING_DELETION: {
        # AWS's table: Y, then Disabled, or PendingImport for a key without material.
        _E.CANCEL_DELETION: _S.DISABLED,
        _E.CANCEL_DELETION_WITHOUT_MATERIAL: _S.PENDING_IMPORT,
        # AWS's table: Y, and the state stays.
        _E.LOSE_MATERIAL: _S.PENDING_DELETION,
    },
}
"""`TRANSITIONS[state][event]` is the next state. `Usable` refuses the missing entries beforehand."""


class StateRule(StrEnum):
    """Letters of the table, each with AWS's error message."""

    YES = "Y"
    DISABLED = "D"
    PENDING_DELETION = "P"
    NOT_PENDING_DELETION = "N"
    PENDING_IMPORT = "I"
    UNSUPPORTED = "U"
    UNAVAILABLE = "X"

    def error(self, arn: str) -> ServiceError:
        """Return the error for a key of this ARN. Not for `YES`."""
        match self:
            case StateRule.DISABLED:
                return DisabledException(f"{arn} is disabled.")
            case StateRule.PENDING_DELETION:
                return KMSInvalidStateException(f"{arn} is pending deletion.")
            case StateRule.NOT_PENDING_DELETION:
                return KMSInvalidStateException(f"{arn} is not pending deletion.")
            case StateRule.PENDING_IMPORT:
                return KMSInvalidStateException(f"{arn} is pending import.")
            case StateRule.UNSUPPORTED:
                return UnsupportedOperationException(f"{arn} origin is EXTERNAL which is not valid for this operation.")
            case StateRule.UNAVAILABLE:
                return KeyUnavailableException(f"{arn} is unavailable: the token does not hold its key material.")
            case StateRule.YES:
                raise AssertionError("not a refusal")


class Usable(Enum):
    """Rule per key state for an operation: Enabled, Disabled, PendingDeletion, PendingImport, Unavailable."""

    ANY = ("YYYYY", "")
    ENABLED = ("YDPIX", "")
    GRANTABLE = ("YDPIY", "")
    """Like ENABLED, but works without material in the token: CreateGrant."""
    WITH_MATERIAL = ("YYPIY", "")
    NOT_PENDING_DELETION = ("YYPYY", "")
    PENDING_DELETION = ("NNYNN", "")
    ROTATION = ("YDPUX", "AWS_KMS")
    ROTATION_STATUS = ("YYYUY", "AWS_KMS")
    IMPORT = ("YYPYY", "EXTERNAL")
    DELETE_MATERIAL = ("YYYYY", "EXTERNAL")

    def __init__(self, row: str, origin: str) -> None:
        self.row: Mapping[KeyState, StateRule] = {
            state: StateRule(letter) for state, letter in zip(KeyState, row, strict=True)
        }
        self.states = frozenset(state for state, rule in self.row.items() if rule is StateRule.YES)
        """States in which the operation works."""
        self.origin = origin
        """The only origin that the operation accepts; empty: any."""

    def allows(self, state: KeyState) -> bool:
        """True if the operation works on a key in `state`."""
        return state in self.states

    def refuse(self, state: KeyState, origin: str, arn: str) -> None:
        """Raise the table's error for a key in `state`; return if the operation works."""
        if self.origin and origin != self.origin:
            raise UnsupportedOperationException(f"{arn} origin is {origin} which is not valid for this operation.")
        refusal = self.row[state]
        if refusal is not StateRule.YES:
            raise refusal.error(arn)
