"""Filter patterns that parse events: `{ $.level = "error" }` and `[ip, user, status = 4*]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from kmsd.cloudwatch_logs.filter_pattern.comparisons import Comparison, Expressions, comparison
from kmsd.cloudwatch_logs.text import closing, end_of
from kmsd.cloudwatch_logs.work_budget import MEMBER_WORK, Work, reading_work
from kmsd.errors import InvalidParameterException

Matches = Callable[[str, Work], bool]
Test = Callable[[Any, Work], bool]
MAX_DEPTH = 50
MAX_FIELDS = 50_000
"""Limit on the fields of a message for a pattern with `...`; a message with more does not match."""
_SPACE = re.compile(r"\s*")
_MARK = re.compile(r"&&|\|\||[()]")
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>")
_PLAIN = re.compile(r'[^\s&|()=!<>"%\[\]]+')
_INDEX = re.compile(r"""\[(?:[0-9]+|\*|'[^']*'|"[^"]*")\]""")
_STEP = re.compile(r"""\.(?P<name>[^.\[\]\s]+)|\[(?:(?P<index>[0-9]+|\*)|'(?P<single>[^']*)'|"(?P<double>[^"]*)")\]""")
_FIELD = re.compile(r'\[(?P<bracket>[^\]]*)\]|"(?P<quoted>[^"]*)"|(?P<bare>\S+)')
_FIELD_WITHOUT_BRACKETS = re.compile(r'"(?P<quoted>[^"]*)"|(?P<bare>\S+)')
_decode = msgspec.json.Decoder().decode


def _invalid(why: str) -> InvalidParameterException:
    return InvalidParameterException(f"Invalid filter pattern: {why}.")


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(text: str) -> list[_Token]:
    found, at = [], end_of(_SPACE, text, 0)
    while at < len(text):
        kind, end = _token(text, at)
        if end <= at:
            raise _invalid(f"it cannot be read at character {at + 1}")
        found.append(_Token(kind, text[at:end]))
        at = end_of(_SPACE, text, end)
    return found


def _token(text: str, at: int) -> tuple[str, int]:
    """Return kind and end of the token at `at`; an end not after `at` means that there is none."""
    match text[at]:
        case '"':
            return "quoted", closing(text, at + 1, '"') + 1
        case "%":
            return "regex", text.find("%", at + 1) + 1
        case _:
            for kind, pattern in (("mark", _MARK), ("operator", _OPERATOR)):
                if (end := end_of(pattern, text, at)) > at:
                    return kind, end
    end = at
    while (further := max(end_of(_PLAIN, text, end), end_of(_INDEX, text, end))) > end:
        end = further
    return "word", end


class _Conditions:
    """Parser of `A && (B || C)`; `leaf` parses the single conditions."""

    def __init__(self, tokens: list[_Token], leaf: Callable[[_Conditions], Test]) -> None:
        self._tokens = tokens
        self._leaf = leaf
        self.at = 0

    def ahead(self) -> _Token:
        """Return the next token; its kind is "" at the end."""
        return self._tokens[self.at] if self.at < len(self._tokens) else _Token("", "")

    def take(self, *kinds: str) -> str:
        """Consume the next token and return its text. Raises InvalidParameterException unless it is of these kinds."""
        token = self.ahead()
        if token.kind not in kinds:
            raise _invalid(f"a {' or '.join(kinds)} is expected")
        self.at += 1
        return token.text

    def read(self) -> Test:
        """Parse all conditions."""
        test = self._or(0)
        if self.ahead().kind:
            raise _invalid("&& or || is expected")
        return test

    def _or(self, depth: int) -> Test:
        tests = [self._and(depth)]
        while self.ahead().text == "||" and self.ahead().kind == "mark":
            self.at += 1
            tests.append(self._and(depth))
        return tests[0] if len(tests) == 1 else lambda value, work: any(test(value, work) for test in tests)

    def _and(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self.ahead().text == "&&" and self.ahead().kind == "mark":
            self.at += 1
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else lambda value, work: all(test(value, work) for test in tests)

    def _one(self, depth: int) -> Test:
        if depth > MAX_DEPTH:
            raise _invalid("too many parentheses within each other")
        if self.ahead() == _Token("mark", "("):
            self.at += 1
            test = self._or(depth + 1)
            if self.take("mark") != ")":
                raise _invalid("a parenthesis is not closed")
            return test
        return self._leaf(self)


# --- JSON ---------------------------------------------------------------------------------------------


def compile_json(text: str, expressions: Expressions) -> Matches:
    """Compile the text between the braces."""
    test = _Conditions(_tokens(text), lambda conditions: _json_condition(conditions, expressions)).read()

    def matches(message: str, work: Work) -> bool:
        work.spend(reading_work(message))
        if not message.lstrip().startswith(("{", "[")):
            return False
        try:
            event = _decode(message)
        except (msgspec.DecodeError, RecursionError):
            return False
        return test(event, work)

    return matches


def _json_condition(conditions: _Conditions, expressions: Expressions) -> Test:
    """Parse `$.a.b = 5`, `$.a IS NULL` or `$.a NOT EXISTS`."""
    steps = _steps(conditions.take("word"))
    if conditions.ahead().kind == "operator":
        operator = conditions.take("operator")
        compare = comparison(operator, conditions.take("quoted", "regex", "word"), expressions)
        return lambda event, work: any(compare.holds(value, work) for value in _values(event, steps, work))
    words = (conditions.take("word").upper(), conditions.take("word").upper())
    match words:
        case ("IS", "NULL"):
            return lambda event, work: any(value is None for value in _values(event, steps, work))
        case ("IS", "TRUE"):
            return lambda event, work: any(value is True for value in _values(event, steps, work))
        case ("IS", "FALSE"):
            return lambda event, work: any(value is False for value in _values(event, steps, work))
        case ("NOT", "EXISTS"):
            return lambda event, work: next(_values(event, steps, work), _MISSING) is _MISSING
        case ("IS", "EXISTS"):
            return lambda event, work: next(_values(event, steps, work), _MISSING) is not _MISSING
        case _:
            raise _invalid("an operator, IS NULL, IS TRUE, IS FALSE or NOT EXISTS is expected")


_MISSING = object()
_EVERY = -1


def _steps(selector: str) -> tuple[str | int, ...]:
    """Parse `$.a[0]['b c']` into ("a", 0, "b c"); -1 stands for `[*]`."""
    if not selector.startswith("$"):
        raise _invalid("a selector begins with $")
    steps: list[str | int] = []
    at = 1
    while at < len(selector):
        found = _STEP.match(selector, at)
        if found is None:
            raise _invalid("a selector cannot be read")
        index = found["index"]
        if index is not None:
            steps.append(_EVERY if index == "*" else int(index))
        else:
            steps.append(next(name for name in (found["name"], found["single"], found["double"]) if name is not None))
        at = found.end()
    return tuple(steps)


def _values(event: Any, steps: tuple[str | int, ...], work: Work) -> Iterator[Any]:
    """Yield the values that a selector points to. Raises `TooMuchWork`."""
    pending: list[tuple[Iterator[Any], int]] = [(iter((event,)), 0)]
    while pending:
        items, first = pending[-1]
        for value in items:
            place, found = _follow(value, steps, first)
            work.spend(MEMBER_WORK * (1 + place - first))
            if found is _MISSING:
                continue
            if place == len(steps):
                yield found
            else:
                pending.append((iter(found), place + 1))
                break
        else:
            pending.pop()


def _follow(value: Any, steps: tuple[str | int, ...], first: int) -> tuple[int, Any]:
    """Follow the steps from `value` to the next `[*]` or the end; return the index reached and the value there."""
    for place in range(first, len(steps)):
        step = steps[place]
        if isinstance(step, str):
            if not isinstance(value, dict) or step not in value:
                return place, _MISSING
            value = value[step]
        elif not isinstance(value, list) or step >= len(value):
            return place, _MISSING
        elif step == _EVERY:
            return place, value
        else:
            value = value[step]
    return len(steps), value


# --- Space-delimited ------------------------------------------------------------------------------------


def compile_fields(text: str, expressions: Expressions) -> Matches:
    """Compile the text between the brackets: names in field order, some with conditions; `...` for any fields."""
    columns = [column.strip() for column in _columns(text)]
    dots = columns.index("...") if "..." in columns else None
    names = [column for column in columns if column != "..."]
    if dots is not None and len(names) < len(columns) - 1:
        raise _invalid("... can be there once")
    tests = [_column_test(column, expressions) for column in names]
    head = len(names) if dots is None else dots
    tail = len(names) - head

    def matches(message: str, work: Work) -> bool:
        work.spend(len(message))
        most = len(names) if dots is None else MAX_FIELDS
        fields = list(islice(_fields(message), most + 1))
        if not len(names) <= len(fields) <= most:
            return False
        chosen = fields[:head] + (fields[-tail:] if tail else [])
        return all(test(field, work) for test, field in zip(tests, chosen, strict=True))

    return matches


def _fields(message: str) -> Iterator[str]:
    """Yield words, `[…]` and `"…"`. Beyond the last `]`, no `[` is tried: each would be searched to the end."""
    begin, last = 0, message.rfind("]")
    for found in _FIELD.finditer(message):
        begin = found.start()
        if begin > last:
            break
        yield found[found.lastgroup or 0]
    else:
        return
    for found in _FIELD_WITHOUT_BRACKETS.finditer(message, begin):
        yield found[found.lastgroup or 0]


def _columns(text: str) -> list[str]:
    """Split at commas outside of quotations, expressions and parentheses."""
    parts, depth, start = [], 0, 0
    inside = ""
    for at, char in enumerate(text):
        if inside:
            inside = "" if char == inside and text[at - 1] != "\\" else inside
        elif char in '"%':
            inside = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _column_test(column: str, expressions: Expressions) -> Test:
    """Compile `name`, or conditions on one name: `status = 4* || status = 5*`."""
    tokens = _tokens(column)
    if not tokens:
        raise _invalid("a field has no name")
    if len(tokens) == 1:
        if tokens[0].kind != "word":
            raise _invalid("a field has no name")
        return lambda _, __: True
    names: set[str] = set()

    def condition(conditions: _Conditions) -> Test:
        names.add(conditions.take("word"))
        operator = conditions.take("operator")
        compare: Comparison = comparison(operator, conditions.take("quoted", "regex", "word"), expressions)
        return compare.holds

    test = _Conditions(tokens, condition).read()
    if len(names) > 1:
        raise _invalid("the conditions of a field name others")
    return test
