"""Filter patterns that look into an event: `{ $.level = "error" }` and `[ip, user, status = 4*]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from kmsd.domain.log_filter_values import Comparison, comparison
from kmsd.errors import InvalidParameterException

Matches = Callable[[str], bool]
Test = Callable[[Any], bool]
MOST_DEPTH = 50
_TOKEN = re.compile(
    r"\s*(?:(?P<mark>&&|\|\||[()])"
    r"|(?P<operator>!=|<=|>=|=|<|>)"
    r'|(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<regex>%[^%]*%)"
    r"""|(?P<word>(?:\[(?:[0-9]+|\*|'[^']*'|"[^"]*")\]|[^\s&|()=!<>"%\[\]])+))"""
)
_STEP = re.compile(r"""\.(?P<name>[^.\[\]\s]+)|\[(?:(?P<index>[0-9]+|\*)|'(?P<single>[^']*)'|"(?P<double>[^"]*)")\]""")
_FIELD = re.compile(r'\[(?P<bracket>[^\]]*)\]|"(?P<quoted>[^"]*)"|(?P<bare>\S+)')
_decode = msgspec.json.Decoder().decode


def _invalid(why: str) -> InvalidParameterException:
    return InvalidParameterException(f"Invalid filter pattern: {why}.")


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            raise _invalid(f"it cannot be read at character {at + 1}")
        found.append(_Token(token.lastgroup, token[token.lastgroup]))
        at = token.end()
    return found


class _Conditions:
    """`A && (B || C)`; what A is, is read by `leaf`."""

    def __init__(self, tokens: list[_Token], leaf: Callable[[_Conditions], Test]) -> None:
        self._tokens = tokens
        self._leaf = leaf
        self.at = 0

    def ahead(self) -> _Token:
        """The next token; of kind "" at the end."""
        return self._tokens[self.at] if self.at < len(self._tokens) else _Token("", "")

    def take(self, *kinds: str) -> str:
        """The next token's text. Raises InvalidParameterException unless it is of these kinds."""
        token = self.ahead()
        if token.kind not in kinds:
            raise _invalid(f"a {' or '.join(kinds)} is expected")
        self.at += 1
        return token.text

    def read(self) -> Test:
        """All of it."""
        test = self._or(0)
        if self.ahead().kind:
            raise _invalid("&& or || is expected")
        return test

    def _or(self, depth: int) -> Test:
        tests = [self._and(depth)]
        while self.ahead().text == "||" and self.ahead().kind == "mark":
            self.at += 1
            tests.append(self._and(depth))
        return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)

    def _and(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self.ahead().text == "&&" and self.ahead().kind == "mark":
            self.at += 1
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)

    def _one(self, depth: int) -> Test:
        if depth > MOST_DEPTH:
            raise _invalid("too many parentheses within each other")
        if self.ahead() == _Token("mark", "("):
            self.at += 1
            test = self._or(depth + 1)
            if self.take("mark") != ")":
                raise _invalid("a parenthesis is not closed")
            return test
        return self._leaf(self)


# --- JSON ---------------------------------------------------------------------------------------------


def compile_json(text: str) -> Matches:
    """Of what stands between the braces."""
    test = _Conditions(_tokens(text), _json_condition).read()

    def matches(message: str) -> bool:
        if not message.lstrip().startswith(("{", "[")):
            return False
        try:
            event = _decode(message)
        except (msgspec.DecodeError, RecursionError):
            return False
        return test(event)

    return matches


def _json_condition(conditions: _Conditions) -> Test:
    """`$.a.b = 5`, `$.a IS NULL`, `$.a NOT EXISTS`."""
    steps = _steps(conditions.take("word"))
    if conditions.ahead().kind == "operator":
        operator = conditions.take("operator")
        compare = comparison(operator, conditions.take("quoted", "regex", "word"))
        return lambda event: any(compare.holds(value) for value in _values(event, steps))
    words = (conditions.take("word").upper(), conditions.take("word").upper())
    match words:
        case ("IS", "NULL"):
            return lambda event: any(value is None for value in _values(event, steps))
        case ("IS", "TRUE"):
            return lambda event: any(value is True for value in _values(event, steps))
        case ("IS", "FALSE"):
            return lambda event: any(value is False for value in _values(event, steps))
        case ("NOT", "EXISTS"):
            return lambda event: next(_values(event, steps), _MISSING) is _MISSING
        case ("IS", "EXISTS"):
            return lambda event: next(_values(event, steps), _MISSING) is not _MISSING
        case _:
            raise _invalid("an operator, IS NULL, IS TRUE, IS FALSE or NOT EXISTS is expected")


_MISSING = object()


def _steps(selector: str) -> tuple[str | int, ...]:
    """`$.a[0]['b c']` as ("a", 0, "b c"); -1 stands for `[*]`."""
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
            steps.append(-1 if index == "*" else int(index))
        else:
            steps.append(next(name for name in (found["name"], found["single"], found["double"]) if name is not None))
        at = found.end()
    return tuple(steps)


def _values(value: Any, steps: tuple[str | int, ...]) -> Iterator[Any]:
    """What a selector points to."""
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if isinstance(value, dict) and step in value:
            yield from _values(value[step], rest)
        return
    if not isinstance(value, list):
        return
    if step == -1:
        for item in value:
            yield from _values(item, rest)
    elif step < len(value):
        yield from _values(value[step], rest)


# --- Space-delimited ------------------------------------------------------------------------------------


def compile_fields(text: str) -> Matches:
    """Of what stands between the brackets: names in the order of the fields, some with conditions; `...` for any."""
    columns = [column.strip() for column in _columns(text)]
    dots = columns.index("...") if "..." in columns else None
    names = [column for column in columns if column != "..."]
    if dots is not None and len(names) < len(columns) - 1:
        raise _invalid("... can be there once")
    tests = [_column_test(column) for column in names]
    head = len(names) if dots is None else dots
    tail = len(names) - head

    def matches(message: str) -> bool:
        fields = [found[found.lastgroup or 0] for found in _FIELD.finditer(message)]
        if len(fields) < len(names) or (dots is None and len(fields) != len(names)):
            return False
        chosen = fields[:head] + (fields[-tail:] if tail else [])
        return all(test(field) for test, field in zip(tests, chosen, strict=True))

    return matches


def _columns(text: str) -> list[str]:
    """Split at commas that are in no quotation, expression or parenthesis."""
    parts, depth, start = [], 0, 0
    inside = ""
    for at, sign in enumerate(text):
        if inside:
            inside = "" if sign == inside and text[at - 1] != "\\" else inside
        elif sign in '"%':
            inside = sign
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        elif sign == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _column_test(column: str) -> Test:
    """`name`, or conditions of one name: `status = 4* || status = 5*`."""
    tokens = _tokens(column)
    if not tokens:
        raise _invalid("a field has no name")
    if len(tokens) == 1:
        if tokens[0].kind != "word":
            raise _invalid("a field has no name")
        return lambda _: True
    names: set[str] = set()

    def condition(conditions: _Conditions) -> Test:
        names.add(conditions.take("word"))
        operator = conditions.take("operator")
        compare: Comparison = comparison(operator, conditions.take("quoted", "regex", "word"))
        return compare.holds

    test = _Conditions(tokens, condition).read()
    if len(names) > 1:
        raise _invalid("the conditions of a field name others")
    return test
