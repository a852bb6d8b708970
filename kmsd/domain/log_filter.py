"""Filter patterns of FilterLogEvents: terms, JSON selectors, space-delimited fields.

"Filter pattern syntax for metric filters, subscription filters, filter log events, and Live Tail" (CloudWatch
Logs User Guide). A pattern is compiled to a function of the message; it raises nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from kmsd.domain.log_filter_fields import compile_fields, compile_json
from kmsd.domain.log_filter_values import regex_of
from kmsd.errors import InvalidParameterException

Matches = Callable[[str], bool]
_TERM = re.compile(r'\s*(?P<sign>[?-]?)(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|%(?P<regex>[^%]*)%|(?P<bare>[^\s"%]+))')


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Matches:
    """What decides whether a message matches. Raises InvalidParameterException."""
    text = pattern.strip()
    if not text:
        return lambda _: True
    if text.startswith("{") and text.endswith("}"):
        return compile_json(text[1:-1])
    if text.startswith("[") and text.endswith("]"):
        return compile_fields(text[1:-1])
    return _compile_terms(text)


def _compile_terms(text: str) -> Matches:
    """All plain terms, none of those after `-`; or, if there are none, any of those after `?`.

    "Filter patterns are case sensitive"; a term is found within words too: `ERROR` in `ERRORCODE: -1`.
    """
    wanted: list[Matches] = []
    excluded: list[Matches] = []
    optional: list[Matches] = []
    by_sign = {"": wanted, "-": excluded, "?": optional}
    at = 0
    while text[at:].strip():
        found = _TERM.match(text, at)
        if found is None:
            raise InvalidParameterException("Invalid filter pattern: a quotation mark or % is not closed.")
        by_sign[found["sign"]].append(_term(found))
        at = found.end()
    # "If you combine ? with other filter patterns, such as include and exclude terms, it is ignored."
    if optional and not wanted and not excluded:
        return lambda message: any(matches(message) for matches in optional)
    return lambda message: (
        all(matches(message) for matches in wanted) and not any(matches(message) for matches in excluded)
    )


def _term(found: re.Match[str]) -> Matches:
    if found["regex"] is not None:
        return regex_of(found["regex"]).found_in
    quoted = found["quoted"]
    term = found["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return lambda message: term in message
