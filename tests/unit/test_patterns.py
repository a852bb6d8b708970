"""Python's `re` backtracks: no pattern of the package may try a text in more ways than it has characters.

Every compiled pattern is taken apart. One that could be slow stands in a list, with the reason why it is not.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined] # the standard library's own names
from re import _parser
from types import ModuleType
from typing import Any

import pytest

import kmsd
from kmsd.operations.kms.shapes import Constraint

PACKAGE = Path(kmsd.__file__).parent
UNBOUNDED = 64
"""A repetition of at most so many is a constant."""
ALPHABET = frozenset(range(0x180))
FUNCTIONS = ("compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn")
SCANS = ("search", "split", "findall", "finditer", "sub", "subn")

SCAN_NOT_SLOW = {"kmsd.cloudwatch_logs.filter_pattern.selectors._FIELD": "no `[` is looked at behind the last `]`"}
"""Patterns that are looked for all over a text although a try may fail after many characters."""


def modules() -> Iterator[ModuleType]:
    """All of the package."""
    for found in pkgutil.walk_packages(kmsd.__path__, "kmsd."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def patterns_of(thing: object) -> Iterator[re.Pattern[Any]]:
    """Compiled patterns within a module's value."""
    if isinstance(thing, re.Pattern):
        yield thing
    elif isinstance(thing, dict):
        yield from patterns_of(tuple(thing.values()))
    elif isinstance(thing, tuple | list | frozenset | set):
        for item in thing:
            yield from patterns_of(item)
    elif isinstance(thing, type) and thing.__module__.startswith("kmsd"):
        yield from patterns_of(tuple(vars(thing).values()))


def named() -> dict[str, re.Pattern[Any]]:
    """Compiled patterns by their names in modules; those in containers by a number more."""
    return {
        f"{module.__name__}.{name}" + (f"[{number}]" if number else ""): pattern
        for module in modules()
        for name, value in vars(module).items()
        for number, pattern in enumerate(patterns_of(value))
    }


# --- What a pattern may cost ------------------------------------------------------------------------------


def characters(op: Any, value: Any) -> frozenset[int]:
    """The code points that an item of one character takes, among the first."""
    if op is sre.LITERAL:
        return frozenset((value,)) & ALPHABET
    if op is sre.NOT_LITERAL:
        return ALPHABET - {value}
    if op is sre.ANY:
        return ALPHABET
    if op is sre.RANGE:
        return ALPHABET & frozenset(range(value[0], value[1] + 1))
    if op is sre.CATEGORY:
        letter = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[str(value).rpartition("_")[2]]
        inside = frozenset(one for one in ALPHABET if re.match(letter, chr(one)))
        return ALPHABET - inside if "_NOT_" in str(value) else inside
    assert op is sre.IN, op
    parts = [one for one in value if one[0] is not sre.NEGATE]
    inside = frozenset[int]().union(*(characters(*one) for one in parts))
    return ALPHABET - inside if len(parts) < len(value) else inside


def first_of(items: Any) -> tuple[frozenset[int], bool]:
    """The characters that a sequence may begin with, and whether it may be empty."""
    found = frozenset[int]()
    for op, value in items:
        begins, is_empty = _begins(op, value)
        found |= begins
        if not is_empty:
            return found, False
    return found, True


def _begins(op: Any, value: Any) -> tuple[frozenset[int], bool]:
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        begins, is_empty = first_of(value[2])
        return begins, is_empty or value[0] == 0
    if op is sre.SUBPATTERN:
        return first_of(value[3])
    if op is sre.BRANCH:
        branches = [first_of(branch) for branch in value[1]]
        return frozenset[int]().union(*(begins for begins, _ in branches)), any(empty for _, empty in branches)
    if op is sre.AT:
        return frozenset(), True
    return characters(op, value), False


def is_long(op: Any, value: Any) -> bool:
    """True for a repetition that has no constant end."""
    return op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[1] > UNBOUNDED


def faults(items: Any, *, repeated: bool = False) -> Iterator[str]:
    """What makes a pattern slow."""
    sequence = list(items)
    for place, (op, value) in enumerate(sequence):
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            if repeated and value[1] > 1:
                yield "a repetition is repeated"
            if is_long(op, value) and _meets_another(first_of(value[2])[0], sequence[place + 1 :]):
                yield "two repetitions in a row take the same character"
            yield from faults(value[2], repeated=value[1] > 1 and not _is_marked(value[2]))
        elif op is sre.SUBPATTERN:
            yield from faults(value[3], repeated=repeated)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from faults(branch, repeated=repeated)


def _is_marked(items: Any) -> bool:
    """True if each round begins with a character that its repetitions do not take: then there is one way to read it."""
    sequence = list(items)
    while len(sequence) == 1 and sequence[0][0] is sre.SUBPATTERN:
        sequence = list(sequence[0][1][3])
    mark, is_empty = first_of(sequence[:1])
    if is_empty or sequence[0][0] in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.BRANCH):
        return False
    return not any(mark & first_of(value[2])[0] for op, value in sequence if is_long(op, value))


def _meets_another(taken: frozenset[int], following: Any) -> bool:
    """True if a long repetition follows that may take one of these at once."""
    for op, value in following:
        inner = value[3] if op is sre.SUBPATTERN else [(op, value)]
        begins, is_empty = first_of([(op, value)])
        if begins & taken and any(is_long(*one) for one in inner):
            return True
        if not is_empty:
            return False
    return False


def fails_late(items: Any) -> bool:
    """True if a try at one place may read on for long, past places where others begin, and then fail."""
    sequence = list(items)
    for place, (op, value) in enumerate(sequence):
        if op is sre.BRANCH:
            return any(fails_late(branch) for branch in value[1])
        if op is sre.SUBPATTERN:
            return fails_late([*sequence[:place], *value[3], *sequence[place + 1 :]])
        if is_long(op, value) and not first_of(sequence[place + 1 :])[1]:
            taken = first_of(value[2])[0]
            return all(characters(*one) & taken for one in sequence[:place] if one[0] in (sre.LITERAL, sre.IN))
    return False


# --- Tests ------------------------------------------------------------------------------------------------


def test_no_pattern_tries_a_text_in_many_ways() -> None:
    """No repeated repetition, no two that could share what they take."""
    found = {
        f"{name}: {fault}: {pattern.pattern!r}"
        for name, pattern in named().items()
        for fault in faults(_parser.parse(pattern.pattern, pattern.flags))
    }
    assert found == set()


def test_no_constraint_of_a_shape_does() -> None:
    """The API's own patterns, which requests are held to."""
    found = set()
    for module in modules():
        for value in vars(module).values():
            constraints = [one for one in getattr(value, "__metadata__", ()) if isinstance(one, Constraint)]
            for one in (*constraints, *(one.member for one in constraints if one.member is not None)):
                if one.pattern is not None:
                    found |= {f"{one.pattern!r}: {fault}" for fault in faults(_parser.parse(one.pattern, re.ASCII))}
    assert found == set()


def calls() -> Iterator[tuple[str, ast.Call, str, bool]]:
    """Calls of a function of `re`, or of a method by such a name: where, which, and whether within a function."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("kmsd", *path.relative_to(PACKAGE).with_suffix("").parts))
        tree = ast.parse(path.read_text())
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
                yield module, node, ast.unparse(node.func.value), id(node) in inside


def test_patterns_are_compiled_where_this_test_finds_them() -> None:
    """At the top of a module; those written within a function are constants, and taken apart as well."""
    found = []
    for module, call, owner, is_inside in calls():
        if owner != "re" or not is_inside:
            continue
        pattern = call.args[0]
        if isinstance(pattern, ast.Constant) and isinstance(pattern.value, str):
            found += [f"{module}: {fault}" for fault in faults(_parser.parse(pattern.value))]
        elif (module, ast.unparse(pattern)) != ("kmsd.operations.kms.shapes", "self.pattern"):
            found.append(f"{module}:{call.lineno}: {ast.unparse(call)}")
    assert found == []


def test_what_is_looked_for_all_over_a_text_does_not_fail_late() -> None:
    """Each try would read on to the end: time that grows with the square of the text."""
    known, found = named(), []
    for module, call, owner, _ in calls():
        pattern = known.get(f"{module}.{owner}")
        if pattern is None or not isinstance(call.func, ast.Attribute) or call.func.attr not in SCANS:
            continue
        name = f"{module}.{owner}"
        if name not in SCAN_NOT_SLOW and fails_late(_parser.parse(pattern.pattern, pattern.flags)):
            found.append(name)
    assert found == []


def test_what_is_listed_exists() -> None:
    """A reason outlives no pattern."""
    assert set(SCAN_NOT_SLOW) <= set(named())


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a*b?)*", r"\s*\s*x", "(?:a|b+)+", "[ab]*b?[bc]*d", "(?:[0-9]+,?)+", "a+(a+)", "(a{1,99})*"]
)
def test_the_check_sees(pattern: str) -> None:
    """Patterns that are slow."""
    assert list(faults(_parser.parse(pattern))) != []


@pytest.mark.parametrize("pattern", [r"[a-z]+(-[a-z]+)*", r'"[^"\\]*(?:\\.[^"\\]*)*"?', r"\$\{([^{}]*)\}", "a+b+"])
def test_the_check_lets_pass(pattern: str) -> None:
    """Patterns with one way to read a text."""
    parsed = _parser.parse(pattern)
    assert list(faults(parsed)) == []


@pytest.mark.parametrize("pattern", [r"\[[^\]]*\]", r"a+b", r"(\s+y)", "x.*y"])
def test_the_check_sees_scans(pattern: str) -> None:
    """Patterns that are slow when they are looked for all over a text."""
    assert fails_late(_parser.parse(pattern))
