"""Regular expressions from clients, matched by RE2 in time linear in the text (docs/decisions/0018).

The searching client supplies the expression and the writing client supplies the text. With a backtracking matcher, the
two could stall a process that also serves keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import re2

MAX_MEMORY_BYTES = 262_144
"""Limit on the bytes of RE2's states for one expression. The module caches the 128 most recently used expressions."""
MAX_INSTRUCTIONS = 1_000
"""Limit on the instructions of a compiled expression: out of memory, RE2 takes one step per instruction and byte."""
MAX_LENGTH = 1_000
"""Limit on the characters of an expression. RE2 compiles it on the event loop, in superlinear time."""
MAX_EXPRESSIONS = 20
"""Limit on the expressions in one filter pattern or query."""
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
"""Messages by RE2's error name. The rest of RE2's text quotes the expression, which must not reach the audit trail."""


class BadRegex(ValueError):
    """The text is not a supported regular expression; the message says why."""


class Regex:
    """Compiled expression. Raises `BadRegex` for one that is malformed or not supported."""

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
        """Return the worst-case number of steps per byte of text."""
        return int(self._search.programsize)

    def found_in(self, text: str) -> bool:
        """True if the expression matches anywhere."""
        return self._find(self._search, text.encode(errors=_SURROGATES)) is not None

    def groups(self, text: str) -> Mapping[str, str] | None:
        """Return the text of the named groups in the leftmost match; None if there is no match."""
        content = text.encode(errors=_SURROGATES)
        found = self._find(self._capture, content)
        if found is None:
            return None
        parts = {name: found[number] or b"" for name, number in self.names.items()}
        return {name: part.decode(errors=_SURROGATES) for name, part in parts.items()}

    def _find(self, regex: re2._Regexp, content: bytes) -> re2._Match | None:
        """Search with Python's `$`: RE2's matches only at the end, Python's also before a trailing line break."""
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
    r"""True if `text` has `\C`, which would match part of a character, or `\p`, whose tables take long to compile."""
    at = text.find("\\")
    while at >= 0:
        if text.startswith(("C", "p", "P"), at + 1):
            return True
        at = text.find("\\", at + 2)
    return False
