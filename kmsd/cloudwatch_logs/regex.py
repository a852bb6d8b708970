"""Regular expressions of callers, matched by RE2 in time that is linear in the text (docs/decisions/0018).

The client that searches brings the expression, and the client that writes brings the text. A backtracking matcher
would let the two stop a process that also serves keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import re2

MAX_MEMORY_BYTES = 262_144
"""Of RE2's states for one expression. The module keeps the 128 expressions that were used last."""
MAX_INSTRUCTIONS = 1_000
"""Of a compiled expression. A matcher that runs out of memory takes a step for each of them, for each byte of text."""
MAX_LENGTH = 1_000
"""Of an expression, in characters. Compiling takes RE2 a time that grows faster than the text, on the event loop."""
MAX_EXPRESSIONS = 20
"""Of one filter pattern or query."""
_SURROGATES = "surrogatepass"
_REFUSALS = {
    "missing )": "a parenthesis is not closed",
    "unexpected )": "unbalanced parenthesis",
    "missing ]": "a bracket is not closed",
    "no argument for repetition operator": "nothing to repeat",
    "bad repetition operator": "a repetition cannot be repeated",
    "invalid repetition size": "a repetition of this size is not supported",
    "invalid perl operator": "look-around, conditions and references to groups are not supported",
    "invalid escape sequence": "an escape sequence or back reference is not supported",
    "invalid named capture group": "the name of a group is not supported",
    "invalid character class range": "a class or range of characters is not supported",
    "pattern too large - compile failed": "the expression is too large",
}
"""By RE2's name of the fault. The rest of its message quotes the expression, and errors stand in the audit trail."""


class BadRegex(ValueError):
    """The text is no expression, or one that is not supported; the message says why."""


class Regex:
    """A compiled expression. Raises `BadRegex` for one that is malformed or not supported here."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._search = _compile(text, captures=False)
        self.names: Mapping[str, int] = self._capture.groupindex if "<" in text else {}
        """Group numbers by name."""
        for name in self.names:
            if text.count(f"(?<{name}>") + text.count(f"(?P<{name}>") > 1:
                raise BadRegex("a group's name is there twice")
        self._ends_early = "$" in text

    @cached_property
    def _capture(self) -> re2._Regexp:
        return _compile(self._text, captures=True)

    @property
    def instructions(self) -> int:
        """Steps for each byte of text, at worst."""
        return int(self._search.programsize)

    def found_in(self, text: str) -> bool:
        """True if it matches anywhere."""
        return self._find(self._search, text.encode(errors=_SURROGATES)) is not None

    def groups(self, text: str) -> Mapping[str, str] | None:
        """Return what its named groups matched, the leftmost match counting; None if it does not match."""
        content = text.encode(errors=_SURROGATES)
        found = self._find(self._capture, content)
        if found is None:
            return None
        parts = {name: found[number] or b"" for name, number in self.names.items()}
        return {name: part.decode(errors=_SURROGATES) for name, part in parts.items()}

    def _find(self, regex: re2._Regexp, content: bytes) -> re2._Match | None:
        """`$` holds at the end, and before a line break that ends the text; RE2 knows the former alone."""
        found = regex.search(content)
        if found is None and self._ends_early and content.endswith(b"\n"):
            return regex.search(content[:-1])
        return found


def _compile(text: str, *, captures: bool) -> re2._Regexp:
    if len(text) > MAX_LENGTH:
        raise BadRegex(f"the expression is longer than {MAX_LENGTH} characters")
    if _has_refused_escape(text):
        raise BadRegex("\\C, \\p and \\P are not supported")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    options.never_capture = not captures
    try:
        regex = re2.compile(text, options)
    except re2.error as exc:
        fault = exc.args[0].decode(errors="replace").partition(": ")[0]
        raise BadRegex(_REFUSALS.get(fault, fault)) from None
    except UnicodeEncodeError:
        raise BadRegex("it is not valid Unicode") from None
    if regex.programsize > MAX_INSTRUCTIONS:
        raise BadRegex("the expression is too large")
    return regex


def _has_refused_escape(text: str) -> bool:
    r"""True if it has `\C`, which would match a part of a character, or `\p`, whose tables take long to compile."""
    at = text.find("\\")
    while at >= 0:
        if text.startswith(("C", "p", "P"), at + 1):
            return True
        at = text.find("\\", at + 2)
    return False
