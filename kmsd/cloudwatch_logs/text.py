"""Quoted text in filter patterns and queries."""

from __future__ import annotations

import re

_ENDS = {mark: re.compile(rf"[{mark}\\]") for mark in "\"'"} | {"/": re.compile(r"[/\\\n]")}
"""What ends a quotation, or hides its next character. `/expression/` also ends, unclosed, with its line."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def closing(text: str, at: int, mark: str) -> int:
    """Return where the quotation ends that was opened by `mark` just before `at`; -1 if it does not end."""
    while (found := _ENDS[mark].search(text, at)) is not None:
        if found[0] == mark:
            return found.start()
        if found[0] == "\n":
            break
        at = found.start() + 2
    return -1


def unescaped(text: str) -> str:
    r"""Return `text` with `\\x` as `x`."""
    return _ESCAPED.sub(r"\1", text)


def end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where a match ends that begins at a place; the place itself if there is none."""
    found = pattern.match(text, at)
    return at if found is None else found.end()
