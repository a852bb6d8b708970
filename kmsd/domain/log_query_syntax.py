"""The query language, read: commands and expressions (CloudWatch Logs Insights query syntax).

What is read is compiled on the way: an expression to a function of a row. What is not supported is refused by
name (`MalformedQuery`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from kmsd.domain.log_filter_values import number_of
from kmsd.domain.log_query import MalformedQuery
from kmsd.domain.log_query_rows import MESSAGE, Row
from kmsd.domain.log_query_values import Instant, Value, arithmetic, call, compare, number, text, truth
from kmsd.domain.log_regex import Regex, compiled
from kmsd.domain.log_regex_syntax import BadRegex

MOST_DEPTH = 50
_SPACE = re.compile(r"(?:\s+|#[^\n]*)+")
_NAME = re.compile(r"@?[A-Za-z_][\w.@]*|`[^`]+`", re.ASCII)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"' + r"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)*)/")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+")
_SPAN = re.compile(r"([0-9]+)\s*(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)\b")
_COMPARISON = re.compile(r"=~|!=|<=|>=|=|<|>")
_UNITS = {"ms": 1, "mi": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_WORDS = frozenset(("and", "or", "not", "like", "in", "as", "by", "asc", "desc"))

Evaluate = Callable[[Row], Value]


class Expression(NamedTuple):
    """An expression, as it was written and as it works."""

    text: str
    evaluate: Evaluate


class Reader:
    """Reads a query from left to right; one method for each level of the language."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.at = 0
        self._skip()

    # --- Signs and words ----------------------------------------------------------------------------

    def _skip(self) -> None:
        found = _SPACE.match(self.query, self.at)
        if found is not None:
            self.at = found.end()

    def fail(self, why: str) -> NoReturn:
        """Raise `MalformedQuery`, with the place. The query is not quoted: errors stand in the audit trail."""
        raise MalformedQuery(f"{why}, at " + ("the end" if self.has_ended() else f"character {self.at + 1}"))

    def has_ended(self) -> bool:
        """Whether all has been read."""
        return self.at >= len(self.query)

    def sign(self, wanted: str) -> bool:
        """Take a sign, if it comes next."""
        if not self.query.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        self._skip()
        return True

    def need(self, wanted: str) -> None:
        """Take a sign that must come next."""
        if not self.sign(wanted):
            self.fail(f"{wanted!r} is expected")

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Take what matches, if it comes next."""
        found = pattern.match(self.query, self.at)
        if found is not None:
            self.at = found.end()
            self._skip()
        return found

    def word(self, *wanted: str) -> str:
        """Take one of some words, in any case, if it comes next; else nothing."""
        found = _NAME.match(self.query, self.at)
        if found is None or found[0].lower() not in wanted:
            return ""
        self.at = found.end()
        self._skip()
        return found[0].lower()

    def name(self, what: str = "a field") -> str:
        """Take a name. Raises `MalformedQuery`."""
        found = _NAME.match(self.query, self.at)
        if found is None or found[0].lower() in _WORDS:
            self.fail(f"{what} is expected")
        self.at = found.end()
        self._skip()
        return found[0].strip("`")

    def string(self) -> str | None:
        """Take a quoted text, if it comes next."""
        found = self.take(_STRING)
        if found is None:
            return None
        return re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2], flags=re.DOTALL)

    def regex(self) -> Regex | None:
        """Take `/expression/`, if it comes next."""
        found = self.take(_REGEX)
        if found is None:
            return None
        try:
            return compiled(found[1])
        except BadRegex as exc:
            raise MalformedQuery(f"in a regular expression: {exc}") from exc

    def since(self, start: int) -> str:
        """What was read since a place, as it was written."""
        return re.sub(r"\s+", " ", self.query[start : self.at].rstrip(" \t\r\n"))

    # --- Expressions ----------------------------------------------------------------------------------

    def expression(self, depth: int = 0) -> Expression:
        """`or` binds least."""
        if depth > MOST_DEPTH:
            self.fail("too many parentheses within each other")
        start = self.at
        found = self._and(depth)
        while self.word("or"):
            found = _either(found, self._and(depth))
        return Expression(self.since(start), found)

    def _and(self, depth: int) -> Evaluate:
        found = self._not(depth)
        while self.word("and"):
            found = _both(found, self._not(depth))
        return found

    def _not(self, depth: int) -> Evaluate:
        if depth > MOST_DEPTH:
            self.fail("too many words of negation")
        if self.word("not"):
            inner = self._not(depth + 1)
            return lambda row: not truth(inner(row))
        return self._comparison(depth)

    def _comparison(self, depth: int) -> Evaluate:
        left = self._sum(depth)
        negated = bool(self.word("not"))
        if self.word("like"):
            test = self._like(left)
        elif self.word("in"):
            test = self._in(left, depth)
        elif negated:
            self.fail("'like' or 'in' is expected after 'not'")
        elif (found := self.take(_COMPARISON)) is not None:
            if found[0] == "=~":
                return self._like(left)
            right, operator = self._sum(depth), found[0]
            return lambda row: compare(left(row), operator, right(row))
        else:
            return left
        return (lambda row: not test(row)) if negated else test

    def _like(self, left: Evaluate) -> Evaluate:
        regex = self.regex()
        if regex is not None:
            return lambda row: (value := left(row)) is not None and regex.found_in(text(value))
        part = self.string()
        if part is None:
            self.fail("a text or /regular expression/ is expected")
        return lambda row: (value := left(row)) is not None and part in text(value)

    def _in(self, left: Evaluate, depth: int) -> Evaluate:
        self.need("[")
        items = [self._sum(depth)]
        while self.sign(","):
            items.append(self._sum(depth))
        self.need("]")
        return lambda row: any(compare(left(row), "=", item(row)) for item in items)

    def _sum(self, depth: int) -> Evaluate:
        found = self._product(depth)
        while self.query[self.at : self.at + 1] in ("+", "-") and not self.has_ended():
            operator = self.query[self.at]
            self.sign(operator)
            found = _calculation(found, operator, self._product(depth))
        return found

    def _product(self, depth: int) -> Evaluate:
        found = self._power(depth)
        while self.query[self.at : self.at + 1] in ("*", "/", "%") and not self.has_ended():
            operator = self.query[self.at]
            self.sign(operator)
            found = _calculation(found, operator, self._power(depth))
        return found

    def _power(self, depth: int) -> Evaluate:
        if self.sign("-"):
            inner = self._power(depth + 1)
            return lambda row: arithmetic(0, "-", inner(row))
        base = self._one(depth)
        return _calculation(base, "^", self._power(depth + 1)) if self.sign("^") else base

    def _one(self, depth: int) -> Evaluate:
        if depth > MOST_DEPTH:
            self.fail("too many parentheses within each other")
        if self.sign("("):
            inner = self.expression(depth + 1).evaluate
            self.need(")")
            return inner
        quoted = self.string()
        if quoted is not None:
            return lambda _: quoted
        digits = self.take(_NUMBER)
        if digits is not None:
            known = number_of(digits[0])
            constant = int(known) if known is not None and known.is_integer() else known
            return lambda _: constant
        quoted_name = self.query.startswith("`", self.at)
        name = self.name("a field, a number or a text")
        if not quoted_name and self.sign("("):
            return self._call(name, depth)
        return _constants.get(name.lower(), lambda row: row.get(name)) if not quoted_name else lambda row: row.get(name)

    def _call(self, name: str, depth: int) -> Evaluate:
        if name.lower() in ("bin", "datefloor", "dateceil"):
            return self._bin(name.lower(), depth)
        arguments: list[Evaluate] = []
        if not self.sign(")"):
            arguments.append(self.expression(depth + 1).evaluate)
            while self.sign(","):
                arguments.append(self.expression(depth + 1).evaluate)
            self.need(")")
        act = call(name, len(arguments))
        return lambda row: act(*(argument(row) for argument in arguments))

    def _bin(self, name: str, depth: int) -> Evaluate:
        """`bin(5m)` of @timestamp; `datefloor(field, 1h)` and `dateceil`."""
        of: Evaluate = lambda row: row.get("@timestamp")  # noqa: E731
        if name != "bin":
            of = self._sum(depth + 1)
            self.need(",")
        span = self.take(_SPAN)
        if span is None:
            self.fail("a span of time such as 5m is expected")
        length = int(span[1]) * _UNITS[span[2][:2] if span[2].startswith(("ms", "mil")) else span[2][:1]]
        if length < 1:
            self.fail("a span of time must be longer than nothing")
        self.need(")")
        up = length - 1 if name == "dateceil" else 0

        def floor(row: Row) -> Value:
            known = number(of(row))
            return None if known is None else Instant((int(known) + up) // length * length)

        return floor


_constants: dict[str, Evaluate] = {"true": lambda _: True, "false": lambda _: False}


def _either(left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda row: truth(left(row)) or truth(right(row))


def _both(left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda row: truth(left(row)) and truth(right(row))


def _calculation(left: Evaluate, operator: str, right: Evaluate) -> Evaluate:
    return lambda row: arithmetic(left(row), operator, right(row))


def default_field() -> Evaluate:
    """@message."""
    return lambda row: row.get(MESSAGE)
