"""The values of condition keys for one request."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kmsd.authz import condition_keys
from kmsd.authz.circumstances import AmbiguousValues, Values
from kmsd.authz.wildcard import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.authz.request import AuthorizationRequest


class RequestContext:
    """What is known of a request, looked up by folded condition key, and worked out key by key: most need few.

    What follows from the caller and the encryption context cannot be overridden by given conditions.
    """

    __slots__ = ("_given", "_query")

    def __init__(self, request: AuthorizationRequest) -> None:
        self._query = request
        self._given: dict[str, Values] | None = None

    def values(self, key: str) -> tuple[str, ...] | None:
        """All values of the folded `key`; None: it is not in the request. Never an empty tuple."""
        found = self._find(key)
        if found is None:
            return None
        return (found,) if isinstance(found, str) else found or None

    def single(self, key: str) -> str | None:
        """The value of the folded `key`, for a policy variable.

        None: it is not in the request, or it can have several values ("you cannot use a multivalued context key
        as a policy variable", IAM User Guide, Single-valued vs. multivalued context keys).
        """
        found = self._find(key)
        return found if isinstance(found, str) else None

    def _find(self, key: str) -> Values | None:
        # The key name, the part after the prefix included, is not case sensitive; the values are compared as the
        # operator says (KMS Developer Guide, kms:EncryptionContext:context-key; IAM User Guide, Condition).
        request = self._query
        provided = condition_keys.find(key)
        if request.conditions and (provided is None or not provided[0].is_fixed):
            if self._given is None:
                self._given = _merged(request.conditions)
            if key in self._given:
                return self._given[key]
        if provided is None:
            return None
        declared, name = provided
        # The encryption context of a query is empty where the action has none.
        if not declared.is_fixed and declared.actions and request.action not in declared.actions:
            return None
        return declared.value(request, name)


_fold_key = lru_cache(maxsize=1024)(fold)
"""Names of condition keys recur on every request. An entry is never wrong; the least used end."""


def _merged(conditions: Mapping[str, Values]) -> dict[str, Values]:
    merged: dict[str, Values] = {}
    for written, value in conditions.items():
        key = _fold_key(written)
        if key in merged:
            merged[key] = AmbiguousValues((*_several(merged[key]), *_several(value)))
        else:
            merged[key] = value
    return merged


def _several(value: Values) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
