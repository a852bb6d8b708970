"""Filter patterns, queries and events that hostile clients might send: grown by the grammars, then bent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

SIGNS = (
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    '"',
    "'",
    "%",
    "/",
    "\\",
    "|",
    "||",
    "&&",
    "*",
    "?",
    "-",
    "$",
    ".",
    ",",
    "#",
    "`",
)
ODD = (
    *("\x00", "\n", "\r\n", "\u2028", "\u0130", "\u212a", "\u017f", "ß", "é", "\U0001f511", "\ufeff", "\u0663", "ﬃ"),
    *("true", "null", "NaN", "1e999", "-1e400", "0x1", "9" * 30, "1" * 400, "1" * 5_000, "1.5e-320", "-0.0"),
)
NAMES = ("a", "n", "level", "list.0", "u.id", "@message", "@timestamp", "@ptr", "@log", "nothing", "list." + "9" * 40)
TEXTS = ("", "a", "b", "error", "x*y", "*", "%", "a\\\\", "[", '\\"')
FUNCTIONS = (
    *("abs", "ceil", "floor", "sqrt", "log", "greatest", "least", "strlen", "toupper", "tolower", "trim", "ltrim"),
    *("rtrim", "concat", "substr", "replace", "strcontains", "coalesce", "ispresent", "isempty", "isblank"),
    *("tomillis", "frommillis", "frob"),
)
AGGREGATES = (
    *("count", "count_distinct", "sum", "avg", "min", "max", "pct", "median", "stddev", "earliest", "latest"),
    *("sortsFirst", "sortsLast"),
)
MAX_PATTERN, MAX_QUERY, MAX_EVENT = 1_024, 10_000, 1_048_576


class Texts:
    """Repeatable by its seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 (repeatable)

    def _one_of(self, *makers: Callable[[], str]) -> str:
        return self._random.choice(makers)()

    def _pick(self, things: Sequence[str]) -> str:
        return self._random.choice(things)

    def _joined(self, make: Callable[[], str], between: str, most: int = 4) -> str:
        return between.join(make() for _ in range(self._random.choice((1, 1, 2, self._random.randint(1, most)))))

    def _bent(self, text: str, most: int) -> str:
        """Mostly as it is; at times cut, doubled, mixed, repeated up to what is allowed."""
        match self._random.randint(0, 19):
            case 0:
                at = self._random.randint(0, len(text))
                return (text[:at] + self._pick((*SIGNS, *ODD)) + text[at:])[:most]
            case 1:
                return text[: self._random.randint(0, len(text))]
            case 2:
                return (text * (most // max(len(text), 1)))[:most]
            case 3:
                part = text[self._random.randint(0, len(text)) :][: self._random.randint(1, 9)] or "("
                return (part * (most // len(part)))[:most]
            case _:
                return text[:most]

    # --- Regular expressions --------------------------------------------------------------------------

    def regex(self, depth: int = 2) -> str:
        """The common core, repetitions within repetitions, what is not supported."""
        atoms = ["a", "b", ".", "[ab]", "[^a]", "\\d", "\\w", "\\b", "^", "$", "[0-9a-f]", "\\.", " ", "error"]
        odd = ["(?=a)", "\\1", "[", "(", ")", "\\C", "\\pL", "[[:alpha:]]", "é", "(?i)", "\\", "{,9}", "a**"]
        parts = []
        for _ in range(self._random.randint(1, 4)):
            part = self._pick(odd) if self._random.random() < 0.03 else self._pick(atoms)
            if depth and self._random.random() < 0.3:
                part = f"({self._pick(('', '?:', '?<x>'))}{self.regex(depth - 1)})"
            parts.append(part + self._pick(("", "", "", "*", "+", "?", "{1,3}", "{0,40}", "{0,300}", "{900}", "*?")))
        return self._pick(("", "", "|")).join(parts)

    # --- Filter patterns ------------------------------------------------------------------------------

    def pattern(self) -> str:
        """A filter pattern of any kind."""
        return self._bent(self._one_of(self._terms, self._json_pattern, self._fields_pattern), MAX_PATTERN)

    def _terms(self) -> str:
        return self._joined(
            lambda: (
                self._pick(("", "", "-", "?"))
                + self._one_of(lambda: self._pick(TEXTS), lambda: f'"{self._pick(TEXTS)}"', lambda: f"%{self.regex()}%")
            ),
            " ",
            9,
        )

    def _value(self) -> str:
        return self._one_of(
            lambda: self._pick(("5", "-1.5", "1e3", "4*", "*x*", "a*b*c", *ODD)),
            lambda: f'"{self._pick(TEXTS)}"',
            lambda: f"%{self.regex(1)}%",
        )

    def _json_pattern(self) -> str:
        def condition() -> str:
            steps = "".join(self._pick((".a", ".n", ".level", "[0]", "[*]", "['a b']", "[99999]")) for _ in range(3))
            test = f"{self._pick(('=', '!=', '<', '>=', '='))} {self._value()}"
            return f"${steps} " + self._pick((test, test, test, "IS NULL", "NOT EXISTS", "IS TRUE", "EXISTS"))

        inner = self._joined(condition, self._pick((" && ", " || ")), 12)
        return "{ " + self._pick((inner, f"({inner})", f"(({inner}) || {condition()})")) + " }"

    def _fields_pattern(self) -> str:
        def column() -> str:
            return self._one_of(lambda: "f", lambda: f"f {self._pick(('=', '!=', '>'))} {self._value()}", lambda: "...")

        return f"[{self._joined(column, ', ', 12)}]"

    # --- Queries --------------------------------------------------------------------------------------

    def query(self) -> str:
        """Commands in a row."""
        commands = (self._columns, self._filter, self._parse, self._stats, self._sort, self._limit, self._dedup)
        return self._bent(self._joined(lambda: self._one_of(*commands), " | ", 7), MAX_QUERY)

    def _expression(self, depth: int = 2) -> str:
        if not depth or self._random.random() < 0.3:
            return self._one_of(
                lambda: self._pick(NAMES),
                lambda: f"'{self._pick(TEXTS)}'",
                lambda: self._pick(("0", "1", "2.5", "1e308", "9" * 25, "1" * 400)),
            )

        def inner() -> str:
            return self._expression(depth - 1)

        return self._one_of(
            lambda: f"{inner()} {self._pick(('+', '-', '*', '/', '%', '^', '=', '!=', '<', '>='))} {inner()}",
            lambda: f"{self._pick(FUNCTIONS)}({self._joined(inner, ', ', 9)})",
            lambda: f"concat({', '.join([inner()] * self._random.choice((2, 9, 99)))})",
            lambda: f"replace({inner()}, {self._pick(('@message', repr('a')))}, {inner()})",
            lambda: f"{inner()} {self._pick(('and', 'or'))} {inner()}",
            lambda: f"(not {inner()})",
            lambda: f"{inner()} {self._pick(('like', '=~', 'not like'))} /{self.regex()}/",
            lambda: f"{inner()} in [{self._joined(inner, ', ')}]",
            lambda: f"datefloor({inner()}, {self._pick(('5m', '1w', '1ms', '999999999999w'))})",
        )

    def _columns(self) -> str:
        def column() -> str:
            return self._expression() + self._pick(("", " as a", " as b"))

        return f"{self._pick(('fields', 'display'))} {self._joined(column, ', ')}"

    def _filter(self) -> str:
        return f"filter {self._expression(3)}"

    def _parse(self) -> str:
        of = self._pick(("", "@message ", "a "))
        return self._one_of(
            lambda: f"parse {of}'a=*,*' as x, y",
            lambda: f"parse {of}'{'*' * 40}' as {','.join(f'c{number}' for number in range(40))}",
            lambda: f"parse {of}/(?<x>{self.regex()}){self.regex(1)}/",
        )

    def _stats(self) -> str:
        def result() -> str:
            return f"{self._pick(AGGREGATES)}({self._expression(1)}{self._pick(('', '', ', 99'))})"

        by = self._pick(("", "", " by bin(5m)", " by a, level", f" by {self._expression(1)}"))
        return f"stats {self._joined(result, ', ')}{by}"

    def _sort(self) -> str:
        return f"sort {self._joined(lambda: self._expression(1) + self._pick(('', ' desc', ' asc')), ', ')}"

    def _limit(self) -> str:
        return f"limit {self._pick(('1', '20', '100000', '1e9', '0', '5 - 4'))}"

    def _dedup(self) -> str:
        return f"dedup {self._joined(lambda: self._expression(1), ', ')}"

    # --- Events ---------------------------------------------------------------------------------------

    def event(self) -> str:
        """A message: mostly short, at times as long as one may be."""
        size = self._random.random()
        most = MAX_EVENT if size < 0.002 else 65_536 if size < 0.02 else self._random.choice((40, 400, 4_000))
        makers = (self._json_event, self._json_event, self._line, self._line, self._repeated, self._noise)
        text = self._one_of(*makers)
        if len(text) < most // 4 and self._random.random() < 0.5:
            text = self._wide_json(most) if self._random.random() < 0.5 else text * (most // max(len(text), 1))
        return text[:most] or "x"

    def _json_value(self, depth: int) -> str:
        leaves = ("1", "-2.5", "null", "true", '"a"', '"404"', '"x*y"', '"\\u0000"', "9" * 25, "1" + "0" * 400, "1e308")
        if not depth or self._random.random() < 0.5:
            return self._pick(leaves)
        if self._random.random() < 0.5:
            return f"[{self._joined(lambda: self._json_value(depth - 1), ',', 6)}]"
        return "{" + self._joined(lambda: f'"{self._pick(("a", "n", "level", "u", "id", "a b"))}":'
                                  f"{self._json_value(depth - 1)}", ",", 6) + "}"  # fmt: skip

    def _json_event(self) -> str:
        return '{"a":' + self._json_value(3) + ',"level":"error","n":' + self._json_value(1) + ',"list":[1,2]}'

    def _wide_json(self, most: int) -> str:
        unit = self._pick(("[]", "{}", "1", '""', "[1]", '{"a":1}', "1" * 400, '"\\u00e9"', "null"))
        opened = self._pick(('{"a":[', "[", '{"a":' + "[" * 50))
        return opened + ",".join([unit] * (most // (len(unit) + 1))) + ("]}" if opened.startswith("{") else "]")

    def _line(self) -> str:
        words = ("a", "b", "error", '"GET / HTTP/1.0"', "[10/Oct/2000 -0700]", "404", "user=bob,", "[", '"', "]", *ODD)
        return self._joined(lambda: self._pick(words), " ", 30)

    def _repeated(self) -> str:
        return self._pick(("a", "ab", "[ ", '" ', "{", "\\", "%", "a b ", "é", "\u0130", "[]", '{"a":', "|")) * 20

    def _noise(self) -> str:
        return "".join(self._random.choices(("a", "b", "a", "b", "c", " "), k=self._random.randint(1, 400)))
