"""Parser of the query language: commands and expressions (CloudWatch Logs Insights query syntax).

Compiles while it parses: an expression becomes a function of a row. Unsupported syntax is refused by name
(`MalformedQuery`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from kmsd.cloudwatch_logs.filter_pattern.comparisons import number_of
from kmsd.cloudwatch_logs.insights.rows import MESSAGE, Record
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.insights.values import Value, arithmetic, call, compare, instant, number, text, truth
from kmsd.cloudwatch_logs.regex import MAX_EXPRESSIONS, BadRegex, Regex
from kmsd.cloudwatch_logs.text import closing, unescaped
from kmsd.cloudwatch_logs.work_budget import matching_work

MAX_DEPTH = 50
MAX_OPERANDS = 2_000
"""Limit on the fields, numbers and texts of a query: all are parsed in one turn of the event loop."""
_SPACE = re.compile(r"\s+|#[^\n]*")
_SPACES = re.compile(r"\s+")
_NAME = re.compile(r"@?[A-Za-z_][\w.@]*|`[^`]+`", re.ASCII)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+")
_SPAN = re.compile(r"([0-9]{1,12})\s*(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)\b")
_COMPARISON = re.compile(r"=~|!=|<=|>=|=|<|>")
_UNITS = {"ms": 1, "mi": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_WORDS = frozenset(("and", "or", "not", "like", "in", "as", "by", "asc", "desc"))

Evaluator = Callable[[Record], Value]


class Expression(NamedTuple):
    """Expression with its source text."""

    text: str
    evaluate: Evaluator


class Parser:
    """Parser that reads a query from left to right, with one method per precedence level."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.at = 0
        self.expressions = 0
        """Number of regular expressions read."""
        self.instructions = 0
        """Instructions of all regular expressions read."""
        self.grows = False
        """True if the query calls a function whose result can be longer than the event."""
        self._operands = 0
        self._skip()

    # --- Signs and words ----------------------------------------------------------------------------

    def _skip(self) -> None:
        while (found := _SPACE.match(self.query, self.at)) is not None:
            self.at = found.end()

    def fail(self, why: str) -> NoReturn:
        """Raise `MalformedQuery` with the position. Does not quote the query: errors appear in the audit trail."""
        raise MalformedQuery(f"{why}, at " + ("the end" if self.has_ended() else f"character {self.at + 1}"))

    def has_ended(self) -> bool:
        """True if the whole query has been read."""
        return self.at >= len(self.query)

    def accept(self, wanted: str) -> bool:
        """Consume `wanted` if it comes next; True if it did."""
        if not self.query.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        self._skip()
        return True

    def expect(self, wanted: str) -> None:
        """Consume `wanted`. Raises `MalformedQuery` if it does not come next."""
        if not self.accept(wanted):
            self.fail(f"{wanted!r} is expected")

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Consume a match of `pattern` if it comes next."""
        found = pattern.match(self.query, self.at)
        if found is not None:
            self.at = found.end()
            self._skip()
        return found

    def keyword(self, *wanted: str) -> str:
        """Consume one of the words, in any case, and return it; return "" if none comes next."""
        if not self.query[self.at : self.at + 1].isalpha():
            return ""
        found = _NAME.match(self.query, self.at)
        if found is None or found[0].lower() not in wanted:
            return ""
        self.at = found.end()
        self._skip()
        return found[0].lower()

    def identifier(self, what: str = "a field") -> str:
        """Consume a name. Raises `MalformedQuery`."""
        found = _NAME.match(self.query, self.at)
        if found is None or found[0].lower() in _WORDS:
            self.fail(f"{what} is expected")
        self.at = found.end()
        self._skip()
        return found[0].strip("`")

    def _quotation(self, mark: str) -> str | None:
        """Consume and return the text between two marks; None if it does not come next."""
        if not self.query.startswith(mark, self.at):
            return None
        begin = self.at + 1
        end = closing(self.query, begin, mark)
        if end < 0:
            return None
        self.at = end + 1
        self._skip()
        return self.query[begin:end]

    def string(self) -> str | None:
        """Consume and return a quoted text; None if it does not come next."""
        quoted = self._quotation('"')
        if quoted is None:
            quoted = self._quotation("'")
        return None if quoted is None else unescaped(quoted)

    def regex(self) -> Regex | None:
        """Consume and compile `/expression/`; None if it does not come next."""
        text = self._quotation("/")
        if text is None:
            return None
        self.expressions += 1
        if self.expressions > MAX_EXPRESSIONS:
            raise MalformedQuery(f"a query can have {MAX_EXPRESSIONS} regular expressions")
        try:
            regex = Regex(text)
        except BadRegex as exc:
            raise MalformedQuery(f"in a regular expression: {exc}") from exc
        self.instructions += regex.instructions
        return regex

    def source_from(self, start: int) -> str:
        """Return the source text from `start` to the current position, with spaces normalised."""
        return _SPACES.sub(" ", self.query[start : self.at].rstrip(" \t\r\n"))

    # --- Expressions ----------------------------------------------------------------------------------

    def expression(self) -> Expression:
        """Consume an expression. Raises `MalformedQuery`."""
        start = self.at
        evaluate = self._or(0)
        return Expression(self.source_from(start), evaluate)

    def _or(self, depth: int) -> Evaluator:
        """Parse `or`, which has the lowest precedence."""
        if depth > MAX_DEPTH:
            self.fail("too many parentheses within each other")
        found = [self._and(depth)]
        while self.keyword("or"):
            found.append(self._and(depth))
        return found[0] if len(found) == 1 else _any(found)

    def _and(self, depth: int) -> Evaluator:
        found = [self._not(depth)]
        while self.keyword("and"):
            found.append(self._not(depth))
        return found[0] if len(found) == 1 else _all(found)

    def _not(self, depth: int) -> Evaluator:
        if depth > MAX_DEPTH:
            self.fail("too many words of negation")
        if self.keyword("not"):
            inner = self._not(depth + 1)
            return lambda row: not truth(inner(row))
        return self._comparison(depth)

    def _comparison(self, depth: int) -> Evaluator:
        left = self._sum(depth)
        negated = bool(self.keyword("not"))
        if self.keyword("like"):
            test = self._like(left)
        elif self.keyword("in"):
            test = self._in(left, depth)
        elif negated:
            self.fail("'like' or 'in' is expected after 'not'")
        elif (found := self.take(_COMPARISON)) is not None:
            if found[0] == "=~":
                return self._like(left)
            return _comparison(left, found[0], self._sum(depth))
        else:
            return left
        return (lambda row: not test(row)) if negated else test

    def _like(self, left: Evaluator) -> Evaluator:
        regex = self.regex()
        if regex is not None:
            return _matches(left, regex)
        part = self.string()
        if part is None:
            self.fail("a text or /regular expression/ is expected")
        return _contains(left, part)

    def _in(self, left: Evaluator, depth: int) -> Evaluator:
        self.expect("[")
        items = [self._sum(depth)]
        while self.accept(","):
            items.append(self._sum(depth))
        self.expect("]")
        return _any([_comparison(left, "=", item) for item in items])

    def _sum(self, depth: int) -> Evaluator:
        return self._calculation(self._product, "+-", depth)

    def _product(self, depth: int) -> Evaluator:
        return self._calculation(self._power, "*/%", depth)

    def _calculation(self, part: Callable[[int], Evaluator], operators: str, depth: int) -> Evaluator:
        """Parse operands with left-associative operators."""
        first, others = part(depth), list[tuple[str, Evaluator]]()
        while not self.has_ended() and (operator := self.query[self.at]) in operators:
            self.accept(operator)
            others.append((operator, part(depth)))
        return _calculation(first, others) if others else first

    def _power(self, depth: int) -> Evaluator:
        if depth > MAX_DEPTH:
            self.fail("too many signs and powers within each other")
        if self.accept("-"):
            inner = self._power(depth + 1)
            return lambda row: arithmetic(0, "-", inner(row))
        base = self._one(depth)
        return _calculation(base, [("^", self._power(depth + 1))]) if self.accept("^") else base

    def _one(self, depth: int) -> Evaluator:
        if depth > MAX_DEPTH:
            self.fail("too many parentheses within each other")
        self._operands += 1
        if self._operands > MAX_OPERANDS:
            self.fail(f"a query can have {MAX_OPERANDS} fields, numbers and texts")
        if self.accept("("):
            inner = self._or(depth + 1)
            self.expect(")")
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
        name = self.identifier("a field, a number or a text")
        if not quoted_name and self.accept("("):
            return self._call(name, depth)
        return _constants.get(name.lower(), lambda row: row.get(name)) if not quoted_name else lambda row: row.get(name)

    def _call(self, name: str, depth: int) -> Evaluator:
        if name.lower() in ("bin", "datefloor", "dateceil"):
            return self._bin(name.lower(), depth)
        self.grows |= name.lower() in ("concat", "replace")
        arguments: list[Evaluator] = []
        if not self.accept(")"):
            arguments.append(self._or(depth + 1))
            while self.accept(","):
                arguments.append(self._or(depth + 1))
            self.expect(")")
        return _application(call(name, len(arguments)), arguments)

    def _bin(self, name: str, depth: int) -> Evaluator:
        """Parse `bin(5m)` of @timestamp, or `datefloor(field, 1h)` and `dateceil`."""
        of: Evaluator = lambda row: row.get("@timestamp")  # noqa: E731
        if name != "bin":
            of = self._sum(depth + 1)
            self.expect(",")
        span = self.take(_SPAN)
        if span is None:
            self.fail("a span of time such as 5m is expected")
        length = int(span[1]) * _UNITS[span[2][:2] if span[2].startswith(("ms", "mil")) else span[2][:1]]
        if length < 1:
            self.fail("a span of time must be longer than nothing")
        self.expect(")")
        up = length - 1 if name == "dateceil" else 0

        def floor(row: Record) -> Value:
            known = number(of(row))
            return None if known is None else instant((int(known) + up) // length * length)

        return floor


_constants: dict[str, Evaluator] = {"true": lambda _: True, "false": lambda _: False}


def _any(conditions: list[Evaluator]) -> Evaluator:
    def holds(row: Record) -> bool:
        for condition in conditions:  # noqa: SIM110 (any() takes an additional frame, and time)
            if truth(condition(row)):
                return True
        return False

    return holds


def _all(conditions: list[Evaluator]) -> Evaluator:
    def holds(row: Record) -> bool:
        for condition in conditions:  # noqa: SIM110
            if not truth(condition(row)):
                return False
        return True

    return holds


def _length(value: Value) -> int:
    return len(value) if isinstance(value, str) else 0


def _comparison(left: Evaluator, operator: str, right: Evaluator) -> Evaluator:
    def holds(row: Record) -> bool:
        one, other = left(row), right(row)
        return row.affords(_length(one) + _length(other)) and compare(one, operator, other)

    return holds


def _matches(left: Evaluator, regex: Regex) -> Evaluator:
    def holds(row: Record) -> bool:
        value = left(row)
        if value is None or not row.affords(matching_work(_length(value), regex.instructions)):
            return False
        return regex.found_in(text(value))

    return holds


def _contains(left: Evaluator, part: str) -> Evaluator:
    def holds(row: Record) -> bool:
        value = left(row)
        return value is not None and row.affords(_length(value)) and part in text(value)

    return holds


def _calculation(first: Evaluator, others: list[tuple[str, Evaluator]]) -> Evaluator:
    def result(row: Record) -> Value:
        found = first(row)
        for operator, other in others:
            found = arithmetic(found, operator, other(row))
        return found

    return result


def _application(act: Callable[..., Value], arguments: list[Evaluator]) -> Evaluator:
    def result(row: Record) -> Value:
        values = [argument(row) for argument in arguments]
        return act(*values) if row.affords(sum(map(_length, values))) else None

    return result


def default_field() -> Evaluator:
    """Return an evaluator of @message."""
    return lambda row: row.get(MESSAGE)
