"""Comparison of one value with another, for the naive evaluator: as the IAM User Guide says it."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import re


def like(pattern: str, text: str) -> bool:
    """`*` and `?`; characters that came from a variable stand escaped by a NUL."""
    if not pattern:
        return not text
    if pattern[0] == "\0":
        return bool(text) and text[0] == pattern[1] and like(pattern[2:], text[1:])
    if pattern[0] == "*":
        return any(like(pattern[1:], text[n:]) for n in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and like(pattern[1:], text[1:])


def arn_like(pattern: str, text: str) -> bool:
    """Part by part; a `*` at the end of a short pattern covers all that follows."""
    parts = re.split("(?<!\0):", pattern, maxsplit=5)
    pieces = text.split(":", maxsplit=len(parts) - 1)
    return len(parts) == len(pieces) and all(like(a, b) for a, b in zip(parts, pieces, strict=True))


def same_name(one: str, other: str) -> bool:
    """Names of condition keys, without regard to case."""
    if one.isascii() and other.isascii():
        return one.lower() == other.lower()
    return len(one) == len(other) and all(
        a == b or (a != "\u212a" and b != "\u212a" and a.lower() == b.lower()) for a, b in zip(one, other, strict=True)
    )


def compare(base: str, listed: str, value: str) -> bool | None:
    """One listed value and one of the request."""
    plain = listed.replace("\0", "")
    if base == "StringEquals":
        return plain == value
    if base == "StringEqualsIgnoreCase":
        return same_name(plain, value)
    if base == "StringLike":
        return like(listed, value)
    if base in ("ArnEquals", "ArnLike"):
        return arn_like(listed, value)
    if base == "Bool":
        return None if value.lower() not in ("true", "false") else value.lower() == listed.lower()
    if base == "IpAddress":
        try:
            address = ipaddress.ip_address(value.replace("::ffff:", "") if "." in value else value)
            return address in ipaddress.ip_network(listed, strict=False)
        except ValueError:
            return None
    if base == "BinaryEquals":
        try:
            binary = base64.b64decode(value, validate=True)
        except ValueError:
            return None
        return binary == base64.b64decode(listed) if base64.b64encode(binary).decode() == value else None
    left, right = (number(value), number(listed)) if base.startswith("Numeric") else (moment(value), moment(listed))
    if left is None or right is None:
        return None
    return {
        "Equals": left == right,
        "LessThan": left < right,
        "LessThanEquals": left <= right,
        "GreaterThan": left > right,
        "GreaterThanEquals": left >= right,
    }[base.removeprefix("Numeric").removeprefix("Date")]


def number(text: str) -> float | None:
    """A number."""
    return float(text) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text) else None


def moment(text: str) -> float | None:
    """Seconds since 1970."""
    if re.fullmatch("[0-9]{5,}", text):
        return float(text)
    if re.fullmatch("[0-9]{4}", text):
        return dt.datetime(int(text), 1, 1, tzinfo=dt.UTC).timestamp()
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed.replace(tzinfo=parsed.tzinfo or dt.UTC).timestamp()
