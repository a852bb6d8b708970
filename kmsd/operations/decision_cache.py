"""Cache of decisions that depend on key, caller and action alone.

An entry is valid only for the `Key` and `Caller` objects that it was computed from. The store returns the same `Key`
until its row changes (policy or state), and the same credential until it or its user's policies change. Decisions that
depend on conditions or grants are never cached here. All entries are evicted when there are `MAX_DECISIONS`.
"""

from __future__ import annotations

from kmsd.authz.request import Allowed
from kmsd.domain.key import Key
from kmsd.domain.principal import Caller

MAX_DECISIONS = 10_000

_allowed: dict[tuple[str, str, str], tuple[Key, Caller, Allowed]] = {}
"""Decisions by action, key id and access key id."""


def get(action: str, key: Key, caller: Caller) -> Allowed | None:
    """Return the cached decision. None means that it is not cached, not that it is a refusal."""
    known = _allowed.get((action, key.key_id, caller.access_key_id))
    if known is not None and known[0] is key and known[1] is caller:
        return known[2]
    return None


def put(action: str, key: Key, caller: Caller, allowed: Allowed) -> None:
    """Cache a decision that no condition and no grant can change."""
    if len(_allowed) >= MAX_DECISIONS:
        _allowed.clear()
    _allowed[action, key.key_id, caller.access_key_id] = (key, caller, allowed)
