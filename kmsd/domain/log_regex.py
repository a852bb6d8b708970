"""Regular expressions of callers, matched in time that is linear in the text.

Whoever may search logs hands in an expression, and whoever may write them hands in the text. With a
backtracking matcher the two could hold up a process that also serves keys, for hours (`(a+)+b` against a
line of a's). So an expression is read here, and where the standard library's matcher could take long on a
text of that length, the text is matched by simulating all states at once (Thompson; with groups, Pike).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache

import msgspec

from kmsd.domain.log_regex_syntax import Anchor, BadRegex, Empty, Group, Node, One, Or, Repeat, Row, parse, width

AFFORDABLE = 1 << 20
"""Steps that a backtracking match may take at worst: milliseconds."""
MOST_STATES = 2_000
"""Of an expression; `{1000}` is written out."""
MOST_CACHED = 4_096
"""Sets of states that a matcher remembers; all are dropped when there are more."""

_CHAR, _SPLIT, _JUMP, _SAVE, _ASSERT, _MATCH = range(6)


class _Step(msgspec.Struct, frozen=True):
    kind: int
    one: One | None = None
    first: int = 0
    second: int = 0


def _compile(node: Node) -> list[_Step]:
    program: list[_Step] = []
    _emit(node, program)
    program.append(_Step(_MATCH))
    return program


def _emit(node: Node, program: list[_Step]) -> None:
    if len(program) > MOST_STATES:
        raise BadRegex("the expression is too large")
    match node:
        case One():
            program.append(_Step(_CHAR, node))
        case Anchor():
            program.append(_Step(_ASSERT, None, ord(node.kind)))
        case Row():
            for part in node.parts:
                _emit(part, program)
        case Or():
            _emit_or(node, program)
        case Group():
            _emit_group(node, program)
        case Repeat():
            _emit_repeat(node, program)
        case Empty():
            pass


def _emit_group(node: Group, program: list[_Step]) -> None:
    if not node.number:
        _emit(node.inner, program)
        return
    program.append(_Step(_SAVE, None, 2 * node.number))
    _emit(node.inner, program)
    program.append(_Step(_SAVE, None, 2 * node.number + 1))


def _emit_or(node: Or, program: list[_Step]) -> None:
    ends = []
    for branch in node.branches[:-1]:
        split = len(program)
        program.append(_Step(_SPLIT))
        _emit(branch, program)
        ends.append(len(program))
        program.append(_Step(_JUMP))
        program[split] = _Step(_SPLIT, None, split + 1, len(program))
    _emit(node.branches[-1], program)
    for end in ends:
        program[end] = _Step(_JUMP, None, len(program))


def _emit_repeat(node: Repeat, program: list[_Step]) -> None:
    for _ in range(node.least):
        _emit(node.inner, program)
    if node.most is None:
        split = len(program)
        program.append(_Step(_SPLIT))
        _emit(node.inner, program)
        program.append(_Step(_JUMP, None, split))
        program[split] = _split(split + 1, len(program), greedy=node.greedy)
        return
    splits = []
    for _ in range(node.most - node.least):
        splits.append(len(program))
        program.append(_Step(_SPLIT))
        _emit(node.inner, program)
    for split in splits:
        program[split] = _split(split + 1, len(program), greedy=node.greedy)


def _split(inside: int, outside: int, *, greedy: bool) -> _Step:
    return _Step(_SPLIT, None, inside, outside) if greedy else _Step(_SPLIT, None, outside, inside)


class Regex:
    """A compiled expression. Raises `BadRegex` for one that is malformed or not supported here."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        parsed = parse(text, ignore_case=ignore_case)
        self._node = parsed.node
        self.names = parsed.names
        """Group numbers by name."""
        self._repeats, self._nested = width(parsed.node)
        try:
            self._quick = re.compile(parsed.python, re.IGNORECASE if parsed.ignore_case else 0)
        except (re.error, OverflowError, RecursionError) as exc:
            raise BadRegex(str(exc)) from exc

    @cached_property
    def _program(self) -> list[_Step]:
        return _compile(self._node)

    @cached_property
    def _states(self) -> _States:
        return _States(self._program)

    def _is_cheap(self, text: str) -> bool:
        """Whether backtracking must end soon: each unbounded repetition multiplies the ways by the text's length."""
        if self._nested:
            return False
        cost = 1
        for _ in range(self._repeats + 1):
            cost *= len(text) + 1
            if cost > AFFORDABLE:
                return self._repeats == 0
        return True

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere."""
        if self._is_cheap(text):
            return self._quick.search(text) is not None
        return self._states.found_in(text)

    def groups(self, text: str) -> Mapping[str, str] | None:
        """What its named groups matched, the leftmost match counting; None: it does not match."""
        if self._is_cheap(text):
            found = self._quick.search(text)
            return None if found is None else {name: value or "" for name, value in found.groupdict().items()}
        return _pike(self._program, self.names, text)


@lru_cache(maxsize=256)
def compiled(text: str, *, ignore_case: bool = False) -> Regex:
    """A `Regex`, kept for the next use; the least used end."""
    return Regex(text, ignore_case=ignore_case)


def _holds(kind: str, text: str, position: int) -> bool:
    match kind:
        case "^":
            return position == 0
        case "$":
            return position == len(text) or (position == len(text) - 1 and text[position] == "\n")
        case _:
            before = position > 0 and (text[position - 1].isalnum() or text[position - 1] == "_")
            after = position < len(text) and (text[position].isalnum() or text[position] == "_")
            return (before != after) == (kind == "b")


class _States:
    """All states of an expression at once; sets of states and what follows them are remembered."""

    def __init__(self, program: list[_Step]) -> None:
        self._program = program
        self._asserts = any(step.kind == _ASSERT for step in program)
        self._following: dict[tuple[frozenset[int], str], frozenset[int] | None] = {}

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere."""
        if self._asserts:
            return self._slowly(text)
        start = self._closure((0,), text, 0)
        if start is None:
            return True
        present, following = start, self._following
        for sign in text:
            after = following.get((present, sign), _UNKNOWN)
            if after is _UNKNOWN:
                after = self._after(present, sign, start)
            if after is None:
                return True
            present = after
        return False

    def _after(self, present: frozenset[int], sign: str, start: frozenset[int]) -> frozenset[int] | None:
        moved = [at + 1 for at in present if (one := self._program[at].one) is not None and one.takes(sign)]
        reached = self._closure(moved, "", 0)
        after = None if reached is None else reached | start
        if len(self._following) >= MOST_CACHED:
            self._following.clear()
        self._following[present, sign] = after
        return after

    def _slowly(self, text: str) -> bool:
        """With anchors, what can be reached depends on the place."""
        present = self._closure((0,), text, 0)
        for position, sign in enumerate(text):
            if present is None:
                return True
            moved = [at + 1 for at in present if (one := self._program[at].one) is not None and one.takes(sign)]
            present = self._closure([*moved, 0], text, position + 1)
        return present is None

    def _closure(self, states: list[int] | tuple[int, ...], text: str, position: int) -> frozenset[int] | None:
        """The states that wait for a sign, reached without one; None: the end was reached."""
        found, seen, stack = set[int](), set[int](), list(states)
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            step = self._program[at]
            match step.kind:
                case 0:  # a sign
                    found.add(at)
                case 1:  # either way
                    stack += (step.first, step.second)
                case 2:  # a jump
                    stack.append(step.first)
                case 3:  # a group's edge
                    stack.append(at + 1)
                case 4:  # an anchor
                    if _holds(chr(step.first), text, position):
                        stack.append(at + 1)
                case _:
                    return None
        return frozenset(found)


_UNKNOWN: frozenset[int] = frozenset((-1,))
_Saved = tuple[int, ...]


def _pike(program: list[_Step], names: Mapping[str, int], text: str) -> Mapping[str, str] | None:
    """As backtracking would match, leftmost and by preference, in one pass."""
    slots = 2 * (max(names.values(), default=0) + 1)
    best: _Saved | None = None
    threads: list[tuple[int, _Saved]] = []
    for position in range(len(text) + 1):
        if best is None:
            _add(program, threads, {at for at, _ in threads}, (0, (-1,) * slots), text=text, position=position)
        following: list[tuple[int, _Saved]] = []
        seen: set[int] = set()
        for at, saved in threads:
            step = program[at]
            if step.kind == _MATCH:
                best = saved
                break  # all that come after are less preferred
            if position < len(text) and step.one is not None and step.one.takes(text[position]):
                _add(program, following, seen, (at + 1, saved), text=text, position=position + 1)
        threads = following
        if best is not None and not threads:
            break
    if best is None:
        return None
    return {name: text[best[2 * number] : best[2 * number + 1]] for name, number in names.items()}


def _add(
    program: list[_Step],
    threads: list[tuple[int, _Saved]],
    seen: set[int],
    thread: tuple[int, _Saved],
    *,
    text: str,
    position: int,
) -> None:
    """Follow a thread to the states that wait for a sign, in the order of preference."""
    stack = [thread]
    while stack:
        at, saved = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        step = program[at]
        match step.kind:
            case 1:  # either way, the first preferred
                stack += ((step.second, saved), (step.first, saved))
            case 2:  # a jump
                stack.append((step.first, saved))
            case 3:  # a group's edge
                slot = step.first
                kept = saved if slot >= len(saved) else (*saved[:slot], position, *saved[slot + 1 :])
                stack.append((at + 1, kept))
            case 4:  # an anchor
                if _holds(chr(step.first), text, position):
                    stack.append((at + 1, saved))
            case _:
                threads.append((at, saved))
