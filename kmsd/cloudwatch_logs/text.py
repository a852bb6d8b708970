"""Parsing of quoted text in filter patterns and queries."""

from __future__ import annotations

import re

_ENDS = {mark: re.compile(rf"[{mark}\\]") for mark in "\"'"} | {"/": re.compile(r"[/\\\n]")}
"""Characters that end a quotation or escape its next character. An unclosed `/expression/` ends with its line."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def closing(text: str, at: int, mark: str) -> int:
    """Return the end of the quotation that `mark` opened just before `at`; -1 if it is not closed."""
    while (found := _ENDS[mark].search(text, at)) is not None:
        if found[0] == mark:
            return found.start()
        if found[0] == "\n":
            break
        at = found.start() + 2
    return -1


def unescaped(text: str) -> str:
    r"""Return `text` with each `\\x` replaced by `x`."""
    return _ESCAPED.sub(r"\1", text)


def end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return the end of a match that begins at `at`; `at` itself if there is none."""
    found = pattern.match(text, at)
    return at if found is None else found.end()
