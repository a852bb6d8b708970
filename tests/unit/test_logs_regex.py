"""Regular expressions in linear time: the standard library's answers, without its worst cases."""

from __future__ import annotations

import re
import threading
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.cloudwatch_logs.regex import MAX_INSTRUCTIONS, BadRegex, Regex

ATOMS = ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", r"\b", "^", "$", "(?:a|bc)", "(a|b)", "(?:)", "0", "é"]


@st.composite
def expressions(draw: st.DrawFn, depth: int) -> str:
    """Expressions of the common core. The standard library takes too long for deeper ones, even on short texts."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        if depth and draw(st.booleans()):
            part = f"(?:{draw(expressions(depth=depth - 1))})"
        else:
            part = draw(st.sampled_from(ATOMS))
        if part not in ("^", "$", r"\b"):
            part += draw(st.sampled_from(["", "", "", "*", "+", "?", "{1,2}", "*?", "+?"]))
        parts.append(part)
    branches = draw(st.booleans())
    return "|".join(parts) if branches else "".join(parts)


@settings(max_examples=400, deadline=None)
@given(expressions(depth=1), st.text("abc0 é", max_size=6))
def test_matches_agree_with_the_standard_library(expression: str, text: str) -> None:
    r"""True where it matches. `\w` and `\b` are about ASCII, as AWS documents them."""
    assert Regex(expression).found_in(text) is (re.search(expression, text, re.ASCII) is not None)


@settings(max_examples=400, deadline=None)
@given(expressions(depth=0), expressions(depth=0), st.text("abc0é", max_size=8))
def test_groups_agree_with_the_standard_library(first: str, second: str, text: str) -> None:
    """The leftmost match, each part as long or short as it prefers."""
    expression = f"(?<x>{first})(?<y>{second})"
    found = re.search(expression.replace("(?<", "(?P<"), text, re.ASCII)
    groups = Regex(expression).groups(text)
    # An empty repetition is where engines differ by definition; it is not what parse is for.
    if _may_be_empty(first) or _may_be_empty(second):
        assert (groups is None) == (found is None)
        return
    assert groups == (None if found is None else {name: value or "" for name, value in found.groupdict().items()})


def _may_be_empty(expression: str) -> bool:
    return re.search(expression, "") is not None or "?:" in expression or "|" in expression


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("b$", "ab", True),
        ("b$", "ab\n", True),
        ("b$", "ab\nc", False),
        ("b$", "ab\n\n", False),
        ("^b", "a\nb", False),
        ("(?i)error", "an ERROR", True),
        ("error", "an ERROR", False),
        ("^.$", "\U0001f600", True),
        ("^.$", "\ud800", True),
        ("a.c", "a\ud800c", True),
        ("c", "\ud800c", True),
        ("a{2}", "aa", True),
        ("a{,2}", "a{,2}", True),
        (r"\.", "a.b", True),
        (r"\\C", "\\C", True),
    ],
)
def test_the_dialect(expression: str, text: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    """Ends of lines, case, characters beyond ASCII, halves of surrogate pairs."""
    assert Regex(expression).found_in(text) is expected


def test_groups_are_cut_at_characters() -> None:
    """Text beyond ASCII, groups that took no part, halves of surrogate pairs."""
    assert Regex("(?<a>é+)(?P<b>x)?(?<c>.)").groups("zéé\U0001f600") == {"a": "éé", "b": "", "c": "\U0001f600"}
    assert Regex("(?<a>b)").groups("\ud800b") == {"a": "b"}
    assert Regex("(?<a>b)").groups("x") is None


BACKTRACKING = [
    "(a+)+b",
    "(a|a)*b",
    "a*a*a*a*b",
    "(a*)*b",
    "(?:a?){30}a{30}b",
    ".*a.*b.*c$",
    "(a{,9}){,9}b",
    "a{0,150}a{0,150}b",
    "a{0,100}a{0,100}a{0,100}b",
]


@pytest.mark.parametrize("expression", BACKTRACKING)
def test_evil_expressions_take_linear_time(expression: str) -> None:
    """Each of these takes a backtracking matcher hours on these texts."""
    began = time.process_time()
    assert Regex(expression).found_in("a" * 20_000) is False
    assert Regex(f"(?<x>{expression})").groups("a" * 300) is None
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("(", "parenthesis"),
        (")", "parenthesis"),
        ("[a", "bracket"),
        ("*", "nothing to repeat"),
        ("a**", "cannot be repeated"),
        ("a*+", "cannot be repeated"),
        ("a{2,1}", "repetition of this size"),
        ("a{9999}", "repetition of this size"),
        ("(?=a)", "look-around"),
        ("(?<!a)", "look-around"),
        ("(?P=a)", "references"),
        ("(?<x>a)(?P=x)", "references"),
        (r"\1", "escape sequence or back reference"),
        (r"a\Cb", "not supported"),
        ("(?<x>a)(?<x>b)", "twice"),
        ("(?<x-y>a)", "name of a group"),
        ("(?:a{1000}){1000}", "repetition of this size"),
        ("a{0,1000}a{0,1000}a{0,1000}b", "too large"),
        (r"\p{L}", "not supported"),
        (r"a\PL", "not supported"),
        ("a" * 1_001, "longer than 1000"),
        ("[z-a]", "class or range"),
        ("\\", "trailing"),
        ("\ud800", "Unicode"),
    ],
)
def test_what_is_not_supported_is_refused(expression: str, why: str) -> None:
    """By name; the expression is not quoted, for errors stand in the audit trail."""
    with pytest.raises(BadRegex, match=re.escape(why)) as refused:
        Regex("secret|" + expression)
    assert "secret" not in str(refused.value)


def test_the_size_of_an_expression_is_bounded() -> None:
    """A text costs its length times the size, at worst."""
    assert Regex(r"\w{1,64}").instructions <= MAX_INSTRUCTIONS
    with pytest.raises(BadRegex, match="too large"):
        Regex("[ab]{999}c[ab]")


def test_a_match_lets_other_threads_run() -> None:
    """The matcher gives the interpreter away, so that a large text in a thread stops nothing."""
    regex, over, turns = Regex("[ab]*a[ab]{200}c"), threading.Event(), 0
    text = "".join(Random(1).choices("ab", k=200_000))  # noqa: S311

    def match() -> None:
        regex.found_in(text)
        over.set()

    thread = threading.Thread(target=match)
    thread.start()
    while not over.is_set():
        turns += 1
    thread.join()
    assert turns > 10
