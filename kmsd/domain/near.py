"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MIN_RATIO = 0.6
"""Similarity ratio of difflib: its default."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, ignoring case; None if none is similar."""
    by_folded = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=_MIN_RATIO)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that `name` is unknown: a suggestion, or an empty string."""
    found = nearest(name, known)
    return f"; did you mean {found}?" if found else ""
