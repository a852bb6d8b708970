"""Values in filter patterns, and how a member of an event compares with them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import msgspec

from kmsd.domain.log_regex import Regex, compiled
from kmsd.domain.log_regex_syntax import BadRegex
from kmsd.errors import InvalidParameterException

# "Supported symbol characters … '_', '#', '=', '@', '/', ';', ',', and '-'. … Supported operators … '^', '$', '?', '[',
# ']', '{', '}', '|', '\', '*', '+', and '.'. … The ( and ) operators are not supported."
_REGEX_SIGNS = re.compile(r"[A-Za-z0-9:_#=@/;,\-^$?\[\]{}|\\*+.<>'\"& ~`!]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}


def regex_of(text: str) -> Regex:
    """The expression between two `%`. Raises InvalidParameterException."""
    if not text or _REGEX_SIGNS.fullmatch(text) is None:
        raise InvalidParameterException(
            "Invalid filter pattern: a regular expression has a sign that is not supported."
        )
    try:
        return compiled(text)
    except BadRegex as exc:
        raise InvalidParameterException(f"Invalid filter pattern: {exc}.") from exc


def number_of(text: str) -> float | None:
    """The number that `text` is; None: it is none."""
    if _NUMBER.fullmatch(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


class Comparison(msgspec.Struct, frozen=True):
    """`OPERATOR VALUE`; what it says of a member that is there."""

    operator: str
    text: str
    quoted: bool
    regex: Regex | None = None
    wild: re.Pattern[str] | None = None
    number: float | None = None

    def holds(self, value: object) -> bool:
        """Whether it is true of `value`: text, number, boolean or null. Objects and lists compare with nothing."""
        if isinstance(value, dict | list):
            return False
        if self.regex is not None:
            return self.regex.found_in(text_of(value)) == (self.operator == "=")
        if self.number is not None and not isinstance(value, bool):
            number = (
                float(value) if isinstance(value, int | float) else number_of(value) if isinstance(value, str) else None
            )
            if number is not None:
                return OPERATORS[self.operator](number, self.number)
            return self.operator == "!=" and value is not None
        if self.operator not in ("=", "!="):
            return False
        if self.wild is not None:
            return (self.wild.fullmatch(text_of(value)) is not None) == (self.operator == "=")
        return OPERATORS[self.operator](text_of(value), self.text)


def text_of(value: object) -> str:
    """A value as it is compared with text."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def comparison(operator: str, raw: str) -> Comparison:
    """Of an operator and a value as written: `"text"`, `text*`, `5`, `%regex%`. Raises InvalidParameterException."""
    if raw.startswith("%") and raw.endswith("%") and len(raw) > 1:
        if operator not in ("=", "!="):
            raise InvalidParameterException("Invalid filter pattern: a regular expression goes with = and != only.")
        return Comparison(operator, raw, quoted=False, regex=regex_of(raw[1:-1]))
    quoted = raw.startswith('"')
    text = re.sub(r"\\(.)", r"\1", raw[1:-1]) if quoted else raw
    number = None if quoted else number_of(text)
    if operator not in ("=", "!=") and number is None:
        raise InvalidParameterException(f"Invalid filter pattern: {operator} goes with numbers only.")
    wild = None
    if "*" in text:
        # Between two stars the shortest stretch will do, so that nothing is tried twice.
        parts = [re.escape(part) for part in re.split(r"\*+", text)]
        wild = re.compile(_without_backtracking(parts), re.DOTALL)
    return Comparison(operator, text, quoted, wild=wild, number=number)


def _without_backtracking(parts: list[str]) -> str:
    """`a*b*c` as an expression that takes each part at its first place and does not come back."""
    first, *middle, last = parts
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + (f".*{last}" if last else ".*")
