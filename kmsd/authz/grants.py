"""Matching of grants: operation, grantee and encryption context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.domain.grant import GRANT_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kmsd.domain.grant import Grant

WITH_CONTEXT = frozenset(
    {
        *("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo"),
        *("GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
        *("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"),
    }
)
"""Operations with an encryption context. "Grant constraints are not applied to operations that do not support an
encryption context, such as … management operations, such as DescribeKey or RetireGrant" (GrantConstraints)."""

USABLE = frozenset(GRANT_OPERATIONS) - {"RetireGrant"}
"""Operations that a grant can allow on its key. RetireGrant is not among them: it only allows to retire the grant that
lists it (`kmsd.authz.grant_retirement`)."""

INDEXED_FROM = 16
"""Grants in one sequence from which on an index is used."""
INDEXES = 64
"""Sequences of grants whose indexes are cached."""


def operation_of(action: str) -> str | None:
    """Return the grant operation of an action; None if no grant can allow it."""
    service, _, name = action.partition(":")
    return name if service == "kms" and name in USABLE else None


def is_on(grant: Grant, resource: str) -> bool:
    """True if the grant is on the key with ARN `resource`. A grant on another key never counts."""
    return resource == grant.key_id or resource.endswith(f":key/{grant.key_id}")


def admits(grant: Grant, operation: str, context: Mapping[str, str]) -> bool:
    """True if the grant's constraint admits this operation with this encryption context."""
    return operation not in WITH_CONTEXT or grant.admits_context(context)


def fitting(
    grants: Sequence[Grant], grantees: tuple[str, ...], operation: str, context: Mapping[str, str], resource: str
) -> Iterator[Grant]:
    """Yield the grants that allow `operation`, in the order of `grants`. `grantees` are the caller's names."""
    candidates = grants if len(grants) < INDEXED_FROM else _candidates(grants, grantees, operation, context)
    for grant in candidates:
        if (
            operation in grant.operations
            and grant.grantee_principal in grantees
            and is_on(grant, resource)
            and admits(grant, operation, context)
        ):
            yield grant


class _Index:
    """Index of one sequence of grants by grantee, operation and constraint.

    A grant with a constraint is filed under one necessary part of an admitted context: the whole context for Equals,
    one pair for Subset. The index only narrows the search; `fitting` decides.
    """

    __slots__ = ("_equals", "_free", "_subset")

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._free: dict[tuple[str, str], list[int]] = {}
        self._equals: dict[tuple[str, str], dict[frozenset[tuple[str, str]], list[int]]] = {}
        self._subset: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
        for number, grant in enumerate(grants):
            for operation in frozenset(grant.operations):  # an operation may be listed twice
                self._add(number, grant, operation)

    def _add(self, number: int, grant: Grant, operation: str) -> None:
        key = grant.grantee_principal, operation
        if operation in WITH_CONTEXT and grant.encryption_context_equals is not None:
            whole = frozenset(grant.encryption_context_equals.items())
            self._equals.setdefault(key, {}).setdefault(whole, []).append(number)
        elif operation in WITH_CONTEXT and grant.encryption_context_subset:
            pair = min(grant.encryption_context_subset.items())
            self._subset.setdefault(key, {}).setdefault(pair, []).append(number)
        else:
            self._free.setdefault(key, []).append(number)

    def numbers(self, grantees: tuple[str, ...], operation: str, context: Mapping[str, str]) -> list[int]:
        """Return the positions of the grants that can match, in order."""
        found: list[int] = []
        for grantee in grantees:
            key = grantee, operation
            found += self._free.get(key, ())
            if equals := self._equals.get(key):
                found += equals.get(frozenset(context.items()), ())
            if subset := self._subset.get(key):
                for pair in context.items():
                    found += subset.get(pair, ())
        found.sort()
        return found


_indexes: dict[int, tuple[Sequence[Grant], _Index | None]] = {}
"""Indexes by id() of a tuple of grants. An entry keeps its tuple alive, so the id cannot be reused. An index is built
when a tuple is seen for the second time; all are evicted when there are `INDEXES` entries."""


def _candidates(
    grants: Sequence[Grant], grantees: tuple[str, ...], operation: str, context: Mapping[str, str]
) -> Iterator[Grant]:
    index = _index(grants)
    if index is None:
        return iter(grants)
    return (grants[number] for number in index.numbers(grantees, operation, context))


def _index(grants: Sequence[Grant]) -> _Index | None:
    if type(grants) is not tuple:
        return None  # a list could change while its index is cached
    kept = _indexes.get(id(grants))
    if kept is None:
        if len(_indexes) >= INDEXES:
            _indexes.clear()
        _indexes[id(grants)] = grants, None
        return None
    index = kept[1]
    if index is None:
        index = _Index(grants)
        _indexes[id(grants)] = grants, index
    return index
