"""The operations that a grant on a key may allow, from their declarations (Developer Guide, "Grant operations")."""

from __future__ import annotations

from typing import Any

from kmsd.domain.key import Key
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage
from kmsd.operations.declaration import Operation

_BY_KIND: dict[tuple[KeySpec, KeyUsage], set[str]] = {
    (spec, usage): set() for spec, usages in ALGORITHMS.items() for usage in usages
}
"""Operations by spec and usage of the key. `kmsd.services` fills it."""


def declare(operation: Operation[Any, Any]) -> None:
    """Let grants allow the operation on keys that it needs a usage of, and on those that it is `grantable` for."""
    for access, action in operation.actions:
        needed, is_symmetric = getattr(access, "usage", None), getattr(access, "is_symmetric", False)
        name = action.partition(":")[2]
        for (spec, usage), names in _BY_KIND.items():
            fits = usage is needed and (spec is KeySpec.SYMMETRIC_DEFAULT or not is_symmetric)
            if fits or spec in operation.grantable:
                names.add(name)


def grantable(key: Key) -> frozenset[str]:
    """Return the operations that a grant on `key` may allow. Raises RuntimeError if `kmsd.services` is not imported."""
    found = _BY_KIND[key.spec, key.usage]
    if not found:
        raise RuntimeError("no operations are declared: import kmsd.services first")
    return frozenset(found)
