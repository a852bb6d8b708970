"""The condition keys of one request and their values."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kmsd.authz.wildcard import fold
from kmsd.domain.principal import PrincipalType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmsd.authz.query import Query
    from kmsd.domain.principal import Caller

Values = str | tuple[str, ...]
"""A tuple: the key can have several values at once."""

_CONTEXT_PREFIX = "kms:encryptioncontext:"
_TAG_PREFIX = "aws:principaltag/"


class Colliding(tuple[str, ...]):
    """Values of keys that differ in case alone: `{"AppName": "a", "appname": "b"}`.

    Key names are compared without regard to case, so the policy's author cannot have meant one of them. A
    condition on such a key holds for Allow only if it holds for each value, for Deny if it holds for any.
    """

    __slots__ = ()


class Facts:
    """What is known of a request, looked up by folded condition key, and worked out key by key: most need few.

    What follows from the caller and the encryption context cannot be overridden by the request's conditions.
    """

    __slots__ = ("_given", "_query")

    def __init__(self, query: Query) -> None:
        self._query = query
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
        if key.startswith(_CONTEXT_PREFIX):
            return _named(self._query.encryption_context, key.removeprefix(_CONTEXT_PREFIX))
        if key.startswith(_TAG_PREFIX):
            return _named(self._query.caller.tags, key.removeprefix(_TAG_PREFIX))
        if key == "kms:encryptioncontextkeys":
            return tuple(self._query.encryption_context)
        of_caller = _OF_CALLER.get(key)
        if of_caller is not None:
            return of_caller(self._query.caller)
        if key == "aws:sourceaccount" and self._query.caller.principal_type is PrincipalType.SERVICE:
            # "the account of the resource making a service-to-service request" (IAM User Guide, aws:SourceAccount).
            return self._query.caller.account
        if self._given is None:
            self._given = _merged(self._query.conditions)
        return self._given.get(key)


_of_people: dict[str, Callable[[Caller], Values | None]] = {
    "aws:principalarn": lambda caller: caller.principal_arn,
    "aws:principalaccount": lambda caller: caller.account,
    "aws:userid": lambda caller: caller.principal_id or None,
    "aws:username": lambda caller: caller.user_name,
}
"""Keys that a service has not."""


def _unless_service(value: Callable[[Caller], Values | None]) -> Callable[[Caller], Values | None]:
    return lambda caller: None if caller.principal_type is PrincipalType.SERVICE else value(caller)


def _truth(*, value: bool) -> str:
    return "true" if value else "false"


_OF_CALLER: dict[str, Callable[[Caller], Values | None]] = {
    "kms:calleraccount": lambda caller: caller.account,
    "aws:principaltype": lambda caller: caller.principal_type.value,
    "aws:principalisawsservice": lambda caller: _truth(value=caller.principal_type is PrincipalType.SERVICE),
    "aws:principalservicename": lambda caller: caller.arn if caller.principal_type is PrincipalType.SERVICE else None,
    "aws:tokenissuetime": lambda caller: None if caller.issued_at is None else caller.issued_at.isoformat(),
    **{key: _unless_service(value) for key, value in _of_people.items()},
}
"""Keys that follow from the caller."""


def _named(pairs: Mapping[str, str], name: str) -> Values | None:
    """The value whose name is `name` but for case."""
    found = [value for written, value in pairs.items() if fold(written) == name]
    if len(found) > 1:
        return Colliding(found)
    return found[0] if found else None


_fold_key = lru_cache(maxsize=1024)(fold)
"""Names of condition keys recur on every request. An entry is never wrong; the least used end."""


def _merged(conditions: Mapping[str, Values]) -> dict[str, Values]:
    merged: dict[str, Values] = {}
    for written, value in conditions.items():
        key = _fold_key(written)
        if key in merged:
            merged[key] = Colliding((*_several(merged[key]), *_several(value)))
        else:
            merged[key] = value
    return merged


def _several(value: Values) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
