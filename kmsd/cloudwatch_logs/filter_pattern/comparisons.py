"""Values in filter patterns, and their comparison with members of an event."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import msgspec

from kmsd.cloudwatch_logs.regex import MAX_EXPRESSIONS, BadRegex, Regex
from kmsd.cloudwatch_logs.text import unescaped
from kmsd.cloudwatch_logs.work_budget import Work, matching_work
from kmsd.errors import InvalidParameterException

# "Supported symbol characters … '_', '#', '=', '@', '/', ';', ',', and '-'. … Supported operators … '^', '$', '?', '[',
# ']', '{', '}', '|', '\', '*', '+', and '.'. … The ( and ) operators are not supported."
_REGEX_SIGNS = re.compile(r"[A-Za-z0-9:_#=@/;,\-^$?\[\]{}|\\*+.<>'\"& ~`!]*", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
MAX_NUMBER_LENGTH = 1_000
"""Limit on the characters of a number; longer texts are not numbers."""
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}


class Expression(msgspec.Struct, frozen=True):
    """Regular expression of a filter pattern."""

    regex: Regex

    def found_in(self, text: str, work: Work) -> bool:
        """True if it matches anywhere. Raises `TooMuchWork`."""
        work.spend(matching_work(len(text), self.regex.instructions))
        return self.regex.found_in(text)


class Expressions:
    """Regular expressions of one filter pattern."""

    def __init__(self) -> None:
        self._count = 0
        self.instructions = 0

    def add(self, text: str) -> Expression:
        """Compile the text between two `%`. Raises InvalidParameterException."""
        if not text or _REGEX_SIGNS.fullmatch(text) is None:
            raise InvalidParameterException(
                "Invalid filter pattern: a regular expression has a sign that is not supported."
            )
        self._count += 1
        if self._count > MAX_EXPRESSIONS:
            raise InvalidParameterException(
                f"Invalid filter pattern: it has more than {MAX_EXPRESSIONS} regular expressions."
            )
        try:
            regex = Regex(text)
        except BadRegex as exc:
            raise InvalidParameterException(f"Invalid filter pattern: {exc}.") from exc
        self.instructions += regex.instructions
        return Expression(regex)


def number_of(text: str) -> float | None:
    """Return the number in `text`; None if it is not one."""
    if len(text) > MAX_NUMBER_LENGTH or _DECIMAL.fullmatch(text) is None:
        return None
    return finite(float(text))


def finite(value: float) -> float | None:
    """Return a number as a finite float; None if it is too large for one."""
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


class Comparison(msgspec.Struct, frozen=True):
    """Comparison `OPERATOR VALUE` with an existing member of an event."""

    operator: str
    text: str
    expression: Expression | None = None
    parts: tuple[str, ...] = ()
    """Parts of `text*` between the stars."""
    number: float | None = None

    def holds(self, value: object, work: Work) -> bool:
        """True if it holds for `value`: text, number, boolean or null. False for objects and lists.

        Raises `TooMuchWork`.
        """
        if isinstance(value, dict | list):
            return False
        if self.expression is not None:
            return self.expression.found_in(text_of(value), work) == (self.operator == "=")
        if self.number is not None and not isinstance(value, bool):
            known = (
                finite(value)
                if isinstance(value, int | float)
                else number_of(value)
                if isinstance(value, str)
                else None
            )
            if known is not None:
                return OPERATORS[self.operator](known, self.number)
            return self.operator == "!=" and value is not None
        if self.operator not in ("=", "!="):
            return False
        shown = text_of(value)
        work.spend(len(shown))
        same = _is_like(shown, self.parts) if self.parts else shown == self.text
        return same == (self.operator == "=")


def _is_like(text: str, parts: tuple[str, ...]) -> bool:
    """True if `text` consists of the parts with anything in between. One pass: each part at its first occurrence."""
    first, *middle, last = parts
    if not text.startswith(first):
        return False
    at = len(first)
    for part in middle:
        place = text.find(part, at)
        if place < 0:
            return False
        at = place + len(part)
    return len(text) - len(last) >= at and text.endswith(last)


def text_of(value: object) -> str:
    """Return a value in the form in which it is compared with text."""
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


def comparison(operator: str, raw: str, expressions: Expressions) -> Comparison:
    """Parse a value as written: `"text"`, `text*`, `5` or `%regex%`. Raises InvalidParameterException."""
    if raw.startswith("%") and raw.endswith("%") and len(raw) > 1:
        if operator not in ("=", "!="):
            raise InvalidParameterException("Invalid filter pattern: a regular expression goes with = and != only.")
        return Comparison(operator, raw, expressions.add(raw[1:-1]))
    quoted = raw.startswith('"')
    text = unescaped(raw[1:-1]) if quoted else raw
    number = None if quoted else number_of(text)
    if operator not in ("=", "!=") and number is None:
        raise InvalidParameterException(f"Invalid filter pattern: {operator} goes with numbers only.")
    parts = tuple(text.split("*")) if "*" in text else ()
    return Comparison(operator, text, parts=parts, number=number)
