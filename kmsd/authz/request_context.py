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
    """Condition values of one request, by folded key. Values are computed on demand: most requests need few.

    Conditions given by hand cannot replace values that follow from the caller or the encryption context.
    """

    __slots__ = ("_given", "_request")

    def __init__(self, request: AuthorizationRequest) -> None:
        self._request = request
        self._given: dict[str, Values] | None = None

    def values(self, key: str) -> tuple[str, ...] | None:
        """Return all values of the folded `key`; None if it is not in the request. Never an empty tuple."""
        found = self._find(key)
        if found is None:
            return None
        return (found,) if isinstance(found, str) else found or None

    def single(self, key: str) -> str | None:
        """Return the value of the folded `key` for a policy variable.

        None if it is not in the request or can have several values ("you cannot use a multivalued context key as a
        policy variable", IAM User Guide, Single-valued vs. multivalued context keys).
        """
        found = self._find(key)
        return found if isinstance(found, str) else None

    def _find(self, key: str) -> Values | None:
        # The key name, including the part after the prefix, is not case sensitive. The operator decides this for
        # values (KMS Developer Guide, kms:EncryptionContext:context-key; IAM User Guide, Condition).
        request = self._request
        web_identity = request.caller.web_identity
        if web_identity is not None and (claim := web_identity.claims.get(key)) is not None:
            return claim
        provided = condition_keys.find(key)
        if request.conditions and (provided is None or not provided[0].is_fixed):
            if self._given is None:
                self._given = _merged(request.conditions)
            if key in self._given:
                return self._given[key]
        if provided is None:
            return None
        declared, name = provided
        # Fixed keys need no check of the action: the encryption context is empty if the action has none.
        if not declared.is_fixed and declared.actions and request.action not in declared.actions:
            return None
        return declared.value(request, name)


_fold_key = lru_cache(maxsize=1024)(fold)
"""`fold`, cached: names of condition keys recur on every request. An entry is never stale; the least recently used is
evicted."""


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
