"""Values in queries, their comparison, and the functions on them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import add, mul, sub
from typing import Any

from kmsd.cloudwatch_logs.filter_pattern.comparisons import finite, number_of
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery

Value = str | int | float | bool | None
"""Value of an expression; None: the field does not exist."""
MAX_DIGITS = 15
MAX_EXACT = 2**63
"""Bound of exact integers; larger ones are calculated with as floats."""
MAX_TEXT_LENGTH = 1_048_576
"""Limit on the characters of a value, the size of the largest event. A function with a longer result has no value."""
_INDEX = re.compile(r"[0-9]{1,9}")
_FIRST_INSTANT = -62_135_596_800_000
_LAST_INSTANT = 253_402_300_799_999
"""Last millisecond of the year 9999; Python's dates range from year 1 to year 9999."""


class Instant(int):
    """Milliseconds since 1970 that are shown as a date; created by `instant`."""


def instant(value: float | None) -> Instant | None:
    """Return milliseconds as a date; None if there is no such date."""
    return None if value is None or not _FIRST_INSTANT <= value <= _LAST_INSTANT else Instant(value)


def number(value: Value) -> float | int | None:
    """Return a value as a number; None if it is not one."""
    match value:
        case bool():
            return int(value)
        case int() if -MAX_EXACT < value < MAX_EXACT:
            return value
        case int() | float():
            return finite(value)
        case str():
            return number_of(value.strip())
        case _:
            return None


def text(value: Value) -> str:
    """Return a value as it is shown."""
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case Instant():
            shown = datetime.fromtimestamp(value // 1000, UTC)
            return f"{shown.year:04d}-{shown:%m-%d %H:%M:%S}.{value % 1000:03d}"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 10**MAX_DIGITS else f"{value:.15g}"
        case _:
            return str(value)


def truth(value: Value) -> bool:
    """Return a value as a condition."""
    match value:
        case str():
            return value.lower() not in ("", "0", "false")
        case _:
            return bool(value)


def order(value: Value) -> tuple[int, float, str]:
    """Return the sort key of a value: missing values first, then numbers, then text."""
    if value is None:
        return (0, 0.0, "")
    known = number(value)
    return (2, 0.0, text(value)) if known is None else (1, float(known), "")


def compare(left: Value, operator: str, right: Value) -> bool:
    """Evaluate `left OPERATOR right`, as numbers if both are, else as text. A missing value differs from everything."""
    if left is None or right is None:
        return operator == "!=" and left is not right
    one, other = number(left), number(right)
    if one is None or other is None:
        return _COMPARE[operator](text(left), text(right))
    return _COMPARE[operator](one, other)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}


def arithmetic(left: Value, operator: str, right: Value) -> Value:
    """Evaluate `left OPERATOR right`; None if an operand or the result is not a number."""
    one, other = number(left), number(right)
    if one is None or other is None:
        return None
    try:
        result = _ARITHMETIC[operator](one, other)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    if isinstance(result, complex) or not math.isfinite(result):
        return None
    return float(result) if isinstance(result, float) or abs(result) >= 10**MAX_DIGITS else int(result)


_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": add,
    "-": sub,
    "*": mul,
    "/": lambda left, right: left / right,
    "%": math.fmod,
    "^": lambda left, right: float(left) ** float(right),
}


def _on_number(act: Callable[[Any], Any]) -> Callable[..., Value]:
    def apply(value: Value) -> Value:
        known = number(value)
        try:
            return None if known is None else act(known)
        except (ValueError, OverflowError):
            return None

    return apply


def _extreme(pick: Callable[..., Any]) -> Callable[..., Value]:
    def apply(*values: Value) -> Value:
        known = [one for one in map(number, values) if one is not None]
        result: Value = pick(known) if known else None
        return result

    return apply


def _substr(value: Value, start: Value, length: Value = None) -> Value:
    first, most = number(start), number(length)
    if value is None or first is None or (length is not None and most is None):
        return None
    begin = max(int(first), 0)
    return text(value)[begin:] if most is None else text(value)[begin : begin + max(int(most), 0)]


def _replace(value: Value, old: Value, new: Value) -> Value:
    if value is None:
        return None
    whole, part, other = text(value), text(old), text(new)
    if not part:
        return whole
    if len(whole) + whole.count(part) * (len(other) - len(part)) > MAX_TEXT_LENGTH:
        return None
    return whole.replace(part, other)


def _concat(*values: Value) -> Value:
    parts = [text(value) for value in values]
    return "".join(parts) if sum(map(len, parts)) <= MAX_TEXT_LENGTH else None


def _on_text(act: Callable[[str], Value]) -> Callable[..., Value]:
    return lambda value: None if value is None else act(text(value))


FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Value]]] = {
    "abs": (1, 1, _on_number(abs)),
    "ceil": (1, 1, _on_number(math.ceil)),
    "floor": (1, 1, _on_number(math.floor)),
    "sqrt": (1, 1, _on_number(math.sqrt)),
    "log": (1, 1, _on_number(math.log)),
    "greatest": (1, 99, _extreme(max)),
    "least": (1, 99, _extreme(min)),
    "strlen": (1, 1, _on_text(len)),
    "toupper": (1, 1, _on_text(str.upper)),
    "tolower": (1, 1, _on_text(str.lower)),
    "trim": (1, 1, _on_text(str.strip)),
    "ltrim": (1, 1, _on_text(str.lstrip)),
    "rtrim": (1, 1, _on_text(str.rstrip)),
    "concat": (1, 99, _concat),
    "substr": (2, 3, _substr),
    "replace": (3, 3, _replace),
    "strcontains": (2, 2, lambda value, part: text(part) in text(value)),
    "coalesce": (1, 99, lambda *values: next((value for value in values if value is not None), None)),
    "ispresent": (1, 1, lambda value: value is not None),
    "isempty": (1, 1, lambda value: value is None or text(value) == ""),
    "isblank": (1, 1, lambda value: value is None or not text(value).strip()),
    "tomillis": (1, 1, lambda value: None if number(value) is None else int(number(value) or 0)),
    "frommillis": (1, 1, lambda value: instant(number(value))),
}
"""Functions by lower-case name: minimum and maximum number of arguments, and implementation."""


def call(name: str, count: int) -> Callable[..., Value]:
    """Return the function of a name. Raises `MalformedQuery`."""
    known = FUNCTIONS.get(name.lower())
    if known is None:
        raise MalformedQuery(f"the function {name} is not supported")
    least, most, act = known
    if not least <= count <= most:
        raise MalformedQuery(f"the function {name} does not take {count} arguments")
    return act


def walk(value: object, name: str) -> object:
    """Return the member of a decoded JSON event at a path such as `a.b.0`; None if there is none."""
    for step in name.split("."):
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if _INDEX.fullmatch(step) and int(step) < len(value):
                value = value[int(step)]
            case _:
                return None
    return value
