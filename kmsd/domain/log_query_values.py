"""Values in queries, how they compare, and the functions over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import add, mul, sub
from typing import Any

import msgspec

from kmsd.domain.log_filter_values import number_of
from kmsd.domain.log_query import MalformedQuery

Value = str | int | float | bool | None
"""What an expression comes to; None: there is no such field."""
MOST_DIGITS = 15


class Instant(int):
    """Milliseconds that are shown as a date."""


def number(value: Value) -> float | int | None:
    """A value as a number; None: it is none."""
    match value:
        case bool():
            return int(value)
        case int() | float():
            return value if math.isfinite(value) else None
        case str():
            return number_of(value.strip())
        case _:
            return None


def text(value: Value) -> str:
    """A value as it is shown."""
    match value:
        case None:
            return ""
        case bool():
            return "1" if value else "0"
        case Instant():
            instant = datetime.fromtimestamp(value / 1000, UTC)
            return instant.strftime("%Y-%m-%d %H:%M:%S.") + f"{value % 1000:03d}"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 10**MOST_DIGITS else f"{value:.15g}"
        case _:
            return str(value)


def truth(value: Value) -> bool:
    """A value as a condition."""
    match value:
        case str():
            return value.lower() not in ("", "0", "false")
        case _:
            return bool(value)


def order(value: Value) -> tuple[int, float, str]:
    """What values sort by: nothing, numbers, text."""
    if value is None:
        return (0, 0.0, "")
    known = number(value)
    return (2, 0.0, text(value)) if known is None else (1, float(known), "")


def compare(left: Value, operator: str, right: Value) -> bool:
    """`left OPERATOR right`: as numbers if both are, else as text. What is not there differs from everything."""
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
    """`left OPERATOR right`; nothing, where one is no number or the result is none."""
    one, other = number(left), number(right)
    if one is None or other is None:
        return None
    try:
        result = _ARITHMETIC[operator](one, other)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    if isinstance(result, complex) or not math.isfinite(result):
        return None
    return float(result) if isinstance(result, float) or abs(result) >= 10**MOST_DIGITS else int(result)


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
    return None if value is None else text(value).replace(text(old), text(new)) if text(old) else text(value)


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
    "concat": (1, 99, lambda *values: "".join(text(value) for value in values)),
    "substr": (2, 3, _substr),
    "replace": (3, 3, _replace),
    "strcontains": (2, 2, lambda value, part: text(part) in text(value)),
    "coalesce": (1, 99, lambda *values: next((value for value in values if value is not None), None)),
    "ispresent": (1, 1, lambda value: value is not None),
    "isempty": (1, 1, lambda value: value is None or text(value) == ""),
    "isblank": (1, 1, lambda value: value is None or not text(value).strip()),
    "tomillis": (1, 1, lambda value: None if number(value) is None else int(number(value) or 0)),
    "frommillis": (1, 1, lambda value: None if number(value) is None else Instant(number(value) or 0)),
}
"""By name in small letters: fewest and most arguments, and what it does."""


def call(name: str, count: int) -> Callable[..., Value]:
    """The function of a name. Raises `MalformedQuery`."""
    known = FUNCTIONS.get(name.lower())
    if known is None:
        raise MalformedQuery(f"the function {name} is not supported")
    least, most, act = known
    if not least <= count <= most:
        raise MalformedQuery(f"the function {name} does not take {count} arguments")
    return act


def walk(value: object, name: str) -> Value:
    """The member of a decoded JSON event that `a.b.0` names; objects and lists as JSON."""
    for step in name.split("."):
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            case _:
                return None
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return value if isinstance(value, str | int | float | bool) else None
