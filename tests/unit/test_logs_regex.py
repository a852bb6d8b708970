"""Regular expressions in linear time: the same answers as the standard library's, and no way to hold the process up."""

from __future__ import annotations

import re
import time
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.domain.log_regex import Regex
from kmsd.domain.log_regex_syntax import BadRegex

ATOMS = ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", r"\b", "^", "$", "(?:a|bc)", "(a|b)", "(?:)", "0"]


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:
    """Expressions of the common core."""
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
@given(expressions(), st.text("abc0 \n", max_size=12))
def test_both_ways_agree_with_the_standard_library(expression: str, text: str) -> None:
    """Whether it matches, however it is found out."""
    regex = Regex(expression)
    expected = re.search(expression, text) is not None
    assert regex.found_in(text) is expected
    assert regex._states.found_in(text) is expected


@settings(max_examples=400, deadline=None)
@given(expressions(depth=1), expressions(depth=1), st.text("abc0", max_size=10))
def test_groups_agree_with_the_standard_library(first: str, second: str, text: str) -> None:
    """The leftmost match, each part as long or short as it prefers."""
    # An empty repetition is where engines differ by definition; it is not what parse is for.
    expression = f"(?<x>{first})(?<y>{second})"
    found = re.search(expression.replace("(?<", "(?P<"), text)
    regex = Regex(expression)
    expected = None if found is None else {name: value or "" for name, value in found.groupdict().items()}
    if _may_be_empty(first) or _may_be_empty(second):
        assert (regex.groups(text) is None) == (expected is None)
        return
    assert regex.groups(text) == expected
    with patch.object(Regex, "_is_cheap", return_value=False):
        assert regex.groups(text) == expected


def _may_be_empty(expression: str) -> bool:
    return re.search(expression, "") is not None or "?:" in expression or "|" in expression


@pytest.mark.parametrize("expression", ["(a+)+b", "(a|a)*b", "a*a*a*a*b", "(a*)*b", "(?:a?){30}a{30}b", ".*a.*b.*c$"])
def test_evil_expressions_take_linear_time(expression: str) -> None:
    """Each of these takes a backtracking matcher hours on these texts."""
    began = time.process_time()
    assert Regex(expression).found_in("a" * 20_000) is False
    assert Regex(f"(?<x>{expression})").groups("a" * 300) is None
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "expression",
    ["(", ")", "[a", "*", "a**", "a*+", "a{2,1}", "a{9999}", "(?=a)", "(?<!a)", r"\1", r"\p{L}", "(?<x>a)(?<x>b)",
     "(" * 60 + ")" * 60, "(?:a{1000}){1000}", "[z-a]"],
)  # fmt: skip
def test_what_is_not_supported_is_refused(expression: str) -> None:
    """Look-around, references, possessive repetition, what would be too large."""
    with pytest.raises(BadRegex):
        Regex(expression)._program  # noqa: B018 (it is compiled when asked for)


def test_case_can_be_left_out_of_account() -> None:
    """`(?i)` in front."""
    assert Regex("(?i)error").found_in("an ERROR")
    assert Regex("(?i)(e+)+r").found_in("x" * 3000 + "EEER")
    assert not Regex("error").found_in("an ERROR")
