"""The regular expressions that are understood here: a common core of all dialects, read into a tree."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

MOST_DEPTH = 50
MOST_COUNT = 1_000
_QUANTIFIED = re.compile(r"\{([0-9]{1,4})(?:(,)([0-9]{0,4}))?\}")
_NAME = re.compile(r"\?P?<([A-Za-z_][A-Za-z0-9_]{0,63})>")
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}


class BadRegex(ValueError):
    """The text is no expression, or one that is not supported; the message says why."""


class One(msgspec.Struct, frozen=True):
    """One sign of a class."""

    signs: re.Pattern[str]

    def takes(self, sign: str) -> bool:
        """Whether `sign` is one of them."""
        return self.signs.match(sign) is not None


class Anchor(msgspec.Struct, frozen=True):
    """A place: `^`, `$`, `b`, `B`."""

    kind: str


class Empty(msgspec.Struct, frozen=True):
    """Nothing."""


class Row(msgspec.Struct, frozen=True):
    """One after another."""

    parts: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    """One of several, the first preferred."""

    branches: tuple[Node, ...]


class Group(msgspec.Struct, frozen=True):
    """In parentheses; number 0: it captures nothing."""

    inner: Node
    number: int


class Repeat(msgspec.Struct, frozen=True):
    """Several times."""

    inner: Node
    least: int
    most: int | None
    greedy: bool


Node = One | Anchor | Empty | Row | Or | Group | Repeat


class Parsed(msgspec.Struct, frozen=True):
    """An expression that was read."""

    node: Node
    python: str
    """The same in the standard library's dialect."""
    names: Mapping[str, int]
    ignore_case: bool


def parse(text: str, *, ignore_case: bool = False) -> Parsed:
    """Read an expression. Raises `BadRegex`."""
    while text.startswith("(?i)"):
        text, ignore_case = text[4:], True
    reader = _Reader(text, re.IGNORECASE if ignore_case else 0)
    node = reader.alternatives(0)
    if reader.at < len(text):
        raise BadRegex("unbalanced parenthesis")
    python = re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", text)
    return Parsed(node, python, reader.names, ignore_case)


def width(node: Node) -> tuple[int, bool]:
    """(how many unbounded repetitions it has, whether one repeats another)."""
    match node:
        case Row(parts):
            found = [width(part) for part in parts]
        case Or(branches):
            found = [width(branch) for branch in branches]
        case Group(inner):
            return width(inner)
        case Repeat(inner, _, most):
            inside, nested = width(inner)
            is_long = most is None or most > 1
            branches_inside = _branches(inner)
            if most is None:
                return inside + 1, nested or inside > 0 or branches_inside
            return inside * max(most, 1), nested or (is_long and (inside > 0 or branches_inside))
        case _:
            return 0, False
    return sum(count for count, _ in found), any(nested for _, nested in found)


def _branches(node: Node) -> bool:
    """Whether it can match in more than one way, so that repeating it multiplies them."""
    match node:
        case Or():
            return True
        case Row(parts):
            return any(_branches(part) for part in parts)
        case Group(inner):
            return _branches(inner)
        case Repeat():
            return True
        case _:
            return False


class _Reader:
    """Recursive descent, one method for each level."""

    def __init__(self, text: str, flags: int) -> None:
        self.text = text
        self.at = 0
        self.names: dict[str, int] = {}
        self._flags = flags
        self._groups = 0

    def _ahead(self) -> str:
        return self.text[self.at : self.at + 1]

    def alternatives(self, depth: int) -> Node:
        """Branches, up to a closing parenthesis or the end."""
        if depth > MOST_DEPTH:
            raise BadRegex("too many parentheses within each other")
        branches = [self._row(depth)]
        while self._ahead() == "|":
            self.at += 1
            branches.append(self._row(depth))
        return branches[0] if len(branches) == 1 else Or(tuple(branches))

    def _row(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._ahead() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom(depth)))
        return parts[0] if len(parts) == 1 else Row(tuple(parts)) if parts else Empty()

    def _repeated(self, inner: Node) -> Node:
        bounds = self._quantifier()
        if bounds is None:
            return inner
        if isinstance(inner, Anchor):
            raise BadRegex("a place cannot be repeated")
        greedy = True
        if self._ahead() in ("?", "+"):
            if self._ahead() == "+":
                raise BadRegex("possessive repetition is not supported")
            greedy = False
            self.at += 1
        if self._quantifier() is not None:
            raise BadRegex("a repetition cannot be repeated")
        return Repeat(inner, *bounds, greedy)

    def _quantifier(self) -> tuple[int, int | None] | None:
        sign = self._ahead()
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if sign in simple:
            self.at += 1
            return simple[sign]
        found = _QUANTIFIED.match(self.text, self.at) if sign == "{" else None
        if found is None:
            return None
        self.at = found.end()
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if least > MOST_COUNT or (most is not None and (most > MOST_COUNT or most < least)):
            raise BadRegex(f"the repetition {found[0]} is not possible")
        return least, most

    def _atom(self, depth: int) -> Node:
        sign = self._ahead()
        self.at += 1
        match sign:
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case ".":
                return self._one(".")
            case "^" | "$":
                return Anchor(sign)
            case "\\":
                return self._escaped()
            case "*" | "+" | "?":
                raise BadRegex("nothing to repeat")
            case _:
                return self._one(re.escape(sign))

    def _group(self, depth: int) -> Node:
        number = 0
        if self.text.startswith("?:", self.at):
            self.at += 2
        elif (named := _NAME.match(self.text, self.at)) is not None:
            self.at = named.end()
            self._groups += 1
            number = self._groups
            if named[1] in self.names:
                raise BadRegex(f"the group {named[1]} is there twice")
            self.names[named[1]] = number
        elif self._ahead() == "?":
            raise BadRegex(f"({self.text[self.at : self.at + 2]} is not supported")
        else:
            self._groups += 1
            number = self._groups
        inner = self.alternatives(depth + 1)
        if self._ahead() != ")":
            raise BadRegex("a parenthesis is not closed")
        self.at += 1
        return Group(inner, number)

    def _class(self) -> Node:
        """The standard library reads it; only its end is looked for."""
        start = self.at - 1
        if self._ahead() == "^":
            self.at += 1
        if self._ahead() == "]":
            self.at += 1
        while self._ahead() not in ("]", ""):
            self.at += 2 if self._ahead() == "\\" else 1
        if self._ahead() == "":
            raise BadRegex("a bracket is not closed")
        self.at += 1
        return self._one(self.text[start : self.at])

    def _escaped(self) -> Node:
        sign = self._ahead()
        self.at += 1
        if sign in ("b", "B"):
            return Anchor(sign)
        if sign in tuple("dDwWsS"):
            return self._one("\\" + sign)
        if sign in _CONTROL:
            return self._one(re.escape(_CONTROL[sign]))
        if not sign or sign.isalnum():
            raise BadRegex(f"\\{sign} is not supported")
        return self._one(re.escape(sign))

    def _one(self, expression: str) -> Node:
        try:
            return One(re.compile(expression, self._flags))
        except (re.error, FutureWarning) as exc:
            raise BadRegex(str(exc)) from exc
