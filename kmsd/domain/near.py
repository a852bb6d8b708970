"""The known name that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MIN_RATIO = 0.6
"""Of difflib: its own default."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`, letter case aside; None if none is like it."""
    by_folded = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=_MIN_RATIO)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that says `name` is unknown: a question, or nothing."""
    found = nearest(name, known)
    return f"; did you mean {found}?" if found else ""
