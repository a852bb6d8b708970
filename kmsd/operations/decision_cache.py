"""Decisions that need not be worked out again: those that follow from the key, the caller and the action alone.

The rule for their end: an entry holds for the very objects that it was made with. The store hands out the same `Key`
until anything of it changes (its policy, its state), and the same credential until anything of that or of its user's
policies does; a new object is a new question. What depends on a request's conditions or on grants is never kept here.
All entries go when there are `MAX_DECISIONS`.
"""

from __future__ import annotations

from kmsd.authz.request import Allowed
from kmsd.domain.key import Key
from kmsd.domain.principal import Caller

MAX_DECISIONS = 10_000

_allowed: dict[tuple[str, str, str], tuple[Key, Caller, Allowed]] = {}
"""By action, key id and access key id."""


def get(action: str, key: Key, caller: Caller) -> Allowed | None:
    """What allows this, if that is known; None says nothing."""
    known = _allowed.get((action, key.key_id, caller.access_key_id))
    if known is not None and known[0] is key and known[1] is caller:
        return known[2]
    return None


def put(action: str, key: Key, caller: Caller, allowed: Allowed) -> None:
    """Keep a decision that no condition and no grant can change."""
    if len(_allowed) >= MAX_DECISIONS:
        _allowed.clear()
    _allowed[action, key.key_id, caller.access_key_id] = (key, caller, allowed)
