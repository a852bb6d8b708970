"""Filter patterns of FilterLogEvents: terms, JSON selectors, space-delimited fields.

"Filter pattern syntax for metric filters, subscription filters, filter log events, and Live Tail" (CloudWatch
Logs User Guide). A compiled pattern never raises, whatever the message: one event must not hide another.
"""

from __future__ import annotations

import re

import msgspec

from kmsd.cloudwatch_logs.filter_pattern.comparisons import Expressions
from kmsd.cloudwatch_logs.filter_pattern.selectors import Matches, compile_fields, compile_json
from kmsd.cloudwatch_logs.text import closing, end_of, unescaped
from kmsd.cloudwatch_logs.work_budget import TooMuchWork, Work
from kmsd.errors import InvalidParameterException

_SPACE = re.compile(r"\s*")
_BARE = re.compile(r'[^\s"%]+')


class Pattern(msgspec.Struct, frozen=True):
    """Compiled filter pattern."""

    matches: Matches
    instructions: int = 0
    """Steps that its regular expressions may take per byte of a message."""

    def __call__(self, message: str) -> bool:
        """True if the message matches. A message that takes more than `MAX_EVENT_WORK` does not match."""
        try:
            return self.matches(message, Work())
        except TooMuchWork:
            return False


def compile_pattern(pattern: str) -> Pattern:
    """Compile a filter pattern. Raises InvalidParameterException."""
    text, expressions = pattern.strip(), Expressions()
    if not text:
        return Pattern(lambda _, __: True)
    if text.startswith("{") and text.endswith("}"):
        matches = compile_json(text[1:-1], expressions)
    elif text.startswith("[") and text.endswith("]"):
        matches = compile_fields(text[1:-1], expressions)
    else:
        matches = _compile_terms(text, expressions)
    return Pattern(matches, expressions.instructions)


def _compile_terms(text: str, expressions: Expressions) -> Matches:
    """Match all plain terms and none after `-`; if there are neither, match any of those after `?`.

    "Filter patterns are case sensitive". A term also matches inside words: `ERROR` in `ERRORCODE: -1`.
    """
    wanted: list[Matches] = []
    excluded: list[Matches] = []
    optional: list[Matches] = []
    at = 0
    while at < len(text):
        terms = {"-": excluded, "?": optional}.get(text[at], wanted)
        term, at = _term(text, at if terms is wanted else at + 1, expressions)
        terms.append(term)
        at = end_of(_SPACE, text, at)
    # "If you combine ? with other filter patterns, such as include and exclude terms, it is ignored."
    if optional and not wanted and not excluded:
        return lambda message, work: any(matches(message, work) for matches in optional)
    return lambda message, work: (
        all(matches(message, work) for matches in wanted) and not any(matches(message, work) for matches in excluded)
    )


def _term(text: str, at: int, expressions: Expressions) -> tuple[Matches, int]:
    """Return the term that begins at `at`, and its end."""
    if text.startswith("%", at):
        end = text.find("%", at + 1)
        if end >= 0:
            return expressions.add(text[at + 1 : end]).found_in, end + 1
    elif text.startswith('"', at):
        end = closing(text, at + 1, '"')
        if end >= 0:
            return _contains(unescaped(text[at + 1 : end])), end + 1
    elif (end := end_of(_BARE, text, at)) > at:
        return _contains(text[at:end]), end
    raise InvalidParameterException("Invalid filter pattern: a quotation mark or % is not closed.")


def _contains(term: str) -> Matches:
    def matches(message: str, work: Work) -> bool:
        work.spend(len(message))
        return term in message

    return matches
