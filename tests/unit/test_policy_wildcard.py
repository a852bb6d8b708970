"""Wildcards are matched in linear time: characters read are counted, not seconds."""

from __future__ import annotations

import pytest

from kmsd.authz.wildcard import Pattern, fold


class CountingText(str):  # noqa: SLOT000  # the count is the class's
    """A text that counts the characters which are read of it."""

    steps = 0

    def __getitem__(self, position: object) -> str:
        """One character."""
        type(self).steps += 1
        return super().__getitem__(position)  # type: ignore[index]

    def find(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        """All characters up to the end of what is found: str.find is linear."""
        found = super().find(part, start, end)
        stop = found + len(part) if found >= 0 else (len(self) if end is None else end)
        type(self).steps += max(0, stop - start)
        return found

    def startswith(self, part: str, start: int = 0) -> bool:  # type: ignore[override]
        """As many as the part has."""
        type(self).steps += len(part)
        return super().startswith(part, start)


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 500 + "b",
        "*a*" * 300 + "b",
        "a*" * 500 + "b",
        "*?" * 500 + "b",
        "*a?" * 300 + "b",
        "*" + "a?" * 400 + "b*",
        "*" + "?" * 400 + "b*",
        "*" * 1000 + "b",
        "?" * 1999 + "b",
        "*aaaaaaaab*aaaaaaaab",
    ],
)
def test_steps_grow_with_the_text_alone(pattern: str) -> None:
    """A thousand a's against the patterns that ruin a matcher which tries again: no more steps than both are long."""
    for length in (1000, 2000, 4000):
        text = CountingText("a" * length)
        CountingText.steps = 0
        assert not Pattern.of(pattern).matches(text)
        assert CountingText.steps <= 2 * (length + len(pattern))


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("?", "", False),
        ("?*", "", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*ab*ab", "ab", False),
        ("*ab*ab", "xabyab", True),
        ("*?b", "b", False),
        ("*?b*", "abb", True),
        ("a?c*e?g", "abcdefg", True),
        ("**", "anything", True),
        ("*.*", "a\nb.c", True),
        ("[a]", "a", False),
        ("a.c", "abc", False),
        ("*\\*", "a\\b", True),
    ],
)
def test_meaning(pattern: str, text: str, *, fits: bool) -> None:
    """Two wildcards and nothing else; a line feed is a character like others."""
    assert Pattern.of(pattern).matches(text) is fits


def test_folding_keeps_look_alikes_apart() -> None:
    """Lower case, but no character outside ASCII becomes one inside."""
    assert fold("AbÉ") == "abé"
    assert fold("\u212aey") == "\u212aey"
    assert all(not fold(chr(code)).isascii() or code < 128 for code in range(0x3000) if chr(code).isalpha())
